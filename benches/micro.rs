//! What the pure stages cost: `cargo bench --bench micro`. `scripts/bench --micro` counts their
//! instructions, in the functions whose names begin with `measured_`, and compares two revisions.

use std::hint::black_box;
use std::net::IpAddr;

use bytes::Bytes;
use divan::Bencher;
use finalizer::courier::Guard;
use finalizer::event::{Event, SessionEnded, decode};
use finalizer::finalize::{PriceBook, Session, finalize};
use finalizer::webhook::{MessageId, Secret, sign};

use calls::{Calls, Ids};

#[path = "tools/calls.rs"]
mod calls;

const TURNS_OF_8_KB: usize = 40;
const TURNS_OF_50_KB: usize = 260;
const BODY_BYTES: usize = 500;
const TIMESTAMP: i64 = 1_780_000_000;

fn main() {
    divan::main();
}

#[divan::bench]
fn decode_8_kb(bencher: Bencher) {
    let event = event(TURNS_OF_8_KB);
    bencher.bench_local(|| drop(measured_decode(black_box(&event))));
}

#[divan::bench]
fn decode_50_kb(bencher: Bencher) {
    let event = event(TURNS_OF_50_KB);
    bencher.bench_local(|| drop(measured_decode(black_box(&event))));
}

#[divan::bench]
fn finalize_8_kb(bencher: Bencher) {
    bench_finalize(bencher, &event(TURNS_OF_8_KB));
}

#[divan::bench]
fn finalize_50_kb(bencher: Bencher) {
    bench_finalize(bencher, &event(TURNS_OF_50_KB));
}

#[divan::bench]
fn sign_500_bytes(bencher: Bencher) {
    let secret = Secret::generate([7; 32]);
    let body = vec![b'x'; BODY_BYTES];
    bencher.bench_local(|| measured_sign(black_box(&secret), black_box(&body)));
}

#[divan::bench]
fn vet(bencher: Bencher) {
    let guard = Guard::default();
    let addresses = ["203.0.114.7", "10.0.0.1", "2606:4700::1111", "::ffff:127.0.0.1"];
    let addresses: Vec<IpAddr> =
        addresses.iter().map(|text| text.parse().expect("an address")).collect();
    bencher.bench_local(|| measured_vet(black_box(&guard), black_box(&addresses)));
}

fn event(turns: usize) -> Bytes {
    Calls::of_turns(turns, Ids::Random).expect("the samples are events").next().1
}

fn bench_finalize(bencher: Bencher, event: &Bytes) {
    let prices = PriceBook::builtin();
    let Event::Ended(ended) = decode(event).expect("the samples are events") else {
        panic!("the samples are ends of calls");
    };
    let ended: &SessionEnded<'_> = &ended;
    bencher.bench_local(|| measured_finalize(black_box(ended), black_box(&prices)));
}

#[inline(never)]
fn measured_decode(event: &[u8]) -> Event<'_> {
    decode(event).expect("the samples are events")
}

#[inline(never)]
fn measured_finalize(ended: &SessionEnded<'_>, prices: &PriceBook) -> Session {
    finalize(ended, prices).expect("the samples are good")
}

#[inline(never)]
fn measured_sign(secret: &Secret, body: &[u8]) -> String {
    sign([secret], MessageId([7; 16]), TIMESTAMP, body)
}

#[inline(never)]
fn measured_vet(guard: &Guard, addresses: &[IpAddr]) -> usize {
    addresses.iter().filter(|address| guard.vet(**address)).count()
}
