//! The pure stages of the finalizer, compiled from their own sources without the rest of the
//! service: a build takes a minute, and what the fuzzer finds its way by is our own code, not a
//! database's client. What is claimed of them is what the property tests claim.

extern crate self as finalizer;

#[path = "../../src/event/mod.rs"]
pub mod event;
#[path = "../../src/finalize/mod.rs"]
pub mod finalize;
#[path = "../../src/courier/guard.rs"]
mod guard;
#[path = "../../src/webhook/mod.rs"]
pub mod webhook;

#[path = "../../tests/it/claims/mod.rs"]
mod claims;
pub mod mutate;

/// Of the courier, which addresses it may call.
pub mod courier {
    pub use crate::guard::{Guard, GuardError, is_public};
}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Unstructured;
use claims::merge::Told;
use ipnet::IpNet;
use serde_json::value::RawValue;

/// The longest batch.
const MAX_EVENTS: usize = 16;

/// Any bytes are an event, or a rejection that says where; the same for the same content.
pub fn check_decode(bytes: &[u8]) {
    claims::decode::check(bytes);
}

/// What decode takes becomes a session that adds up, or is refused.
pub fn check_finalize(bytes: &[u8]) {
    thread_local! {
        static PRICES: finalize::PriceBook = finalize::PriceBook::builtin();
    }
    PRICES.with(|prices| claims::finalize::check(bytes, prices));
}

/// A batch is its events one by one, in any order.
pub fn check_merge(bytes: &[u8]) {
    let mut unstructured = Unstructured::new(bytes);
    let Ok((before, chance)) = unstructured.arbitrary::<(u8, [u8; MAX_EVENTS])>() else { return };
    let mut told = Vec::new();
    while told.len() < MAX_EVENTS
        && let Ok(event) = unstructured.arbitrary()
        && !unstructured.is_empty()
    {
        told.push(Told::any(event));
    }
    let (before, batch) = told.split_at(usize::from(before) % (told.len() + 1));
    claims::merge::check_batch(before, batch);
    claims::merge::check_orders(&told, &chance);
}

/// Reports on a recording, as JSON (one, or a list) or by chance: any copies in any order.
pub fn check_egress(bytes: &[u8]) {
    let mut reports = reports(bytes);
    if reports.is_empty() {
        reports = bytes
            .as_chunks()
            .0
            .iter()
            .take(8)
            .map(|chunk| claims::egress::report(*chunk))
            .collect();
    }
    for egress in &mut reports {
        "EG_1".clone_into(&mut egress.egress_id);
    }
    for (index, one) in reports.iter().enumerate() {
        let other = &reports[(index + 1) % reports.len()];
        claims::egress::check_merging(one, other, &reports[(index + 2) % reports.len()]);
    }
    let has_given_up = bytes.len() % 2 == 1;
    claims::egress::check_settling(reports, has_given_up);
}

fn reports(bytes: &[u8]) -> Vec<event::Egress> {
    #[derive(serde::Deserialize)]
    struct Webhook<'a> {
        #[serde(alias = "egressInfo", alias = "egress", borrow)]
        egress_info: &'a RawValue,
    }

    let one = std::slice::from_ref;
    let list: Vec<&[u8]> = match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(list) => list.into_iter().map(|raw| raw.get().as_bytes()).collect(),
        Err(_) => one(&bytes).to_vec(),
    };
    let info = |json| {
        serde_json::from_slice::<Webhook<'_>>(json)
            .map_or(json, |webhook| webhook.egress_info.get().as_bytes())
    };
    list.into_iter().take(8).filter_map(|json| claims::egress::read(info(json))).collect()
}

/// A URL, or addresses beside networks that are allowed: nothing inside is ever called.
pub fn check_address(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        claims::address::check_url(text);
        claims::address::check_url(&format!("https://{text}"));
    }
    let mut unstructured = Unstructured::new(bytes);
    while !unstructured.is_empty() {
        let Ok((network, length, address)) = unstructured.arbitrary::<(IpAddr, u8, IpAddr)>()
        else {
            return;
        };
        let bits = if network.is_ipv4() { 33 } else { 129 };
        let network = IpNet::new(network, length % bits).expect("it has so many bits").trunc();
        let near = match (network.network(), address) {
            (IpAddr::V4(start), IpAddr::V4(within)) => IpAddr::from(Ipv4Addr::from(
                u32::from(start) ^ (u32::from(within) >> (length % 32)),
            )),
            (IpAddr::V4(start), IpAddr::V6(_)) => start.to_ipv6_mapped().into(),
            (IpAddr::V6(start), IpAddr::V6(within)) => {
                Ipv6Addr::from(u128::from(start) ^ (u128::from(within) >> (length % 128))).into()
            }
            (IpAddr::V6(_), IpAddr::V4(inside)) => {
                Ipv6Addr::from((0x64_ff9b_u128 << 96) | u128::from(u32::from(inside))).into()
            }
        };
        for address in [network.network(), address, near] {
            claims::address::check_address(address);
            claims::address::check_allowed(network, address);
        }
    }
}
