//! Reads sessions at a fixed pace, whatever becomes of the answers: `read ADDRESS KEY FILE TURNS
//! PER_SECOND SECONDS`. The file names sessions, one a line, each with so many turns.
//!
//! Every session is read once before, and looked into; later answers must be the same to the byte.
//! Then the pace is kept for two seconds more that do not count, so that connections and caches are
//! as in a service that has run for a while. Of each request that counts it prints, in microseconds
//! from the moment when it was due, when it was sent and when its answer was there: who is late, the
//! service or this program, does not make the next ones later, nor look faster.
//!
//! One thread a connection, kept open, and no runtime: it shares the machine with what it measures.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::Arguments;

/// So many requests may be under way at once.
const CONNECTIONS: usize = 32;
const WARM_UP_SECONDS: f64 = 2.0;
/// Who does not answer within this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    const USAGE: &str = "usage: read ADDRESS KEY FILE TURNS PER_SECOND SECONDS";
    let mut next = || arguments.next().context(USAGE);
    let (address, key, file) = (next()?, next()?, next()?);
    let turns: usize = next()?.parse()?;
    let (per_second, seconds): (f64, f64) = (next()?.parse()?, next()?.parse()?);
    let sessions = std::fs::read_to_string(file)?;
    let mut connection = Connection::open(&address)?;
    let wanted = sessions
        .lines()
        .map(|session| Wanted::read(&mut connection, &address, &key, session, turns))
        .collect::<anyhow::Result<Vec<Wanted>>>()?;
    ensure!(!wanted.is_empty(), "the file names no session");
    let pace = Pace { start: Instant::now() + Duration::from_millis(100), per_second, seconds };
    let times = thread::scope(|scope| {
        let (wanted, address) = (&wanted[..], &address[..]);
        let readers: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || read(address, wanted, pace, number)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    for (sent_us, answered_us) in times.into_iter().flatten() {
        println!("{sent_us} {answered_us}");
    }
    Ok(())
}

/// So many requests a second from then on.
#[derive(Clone, Copy)]
struct Pace {
    start: Instant,
    per_second: f64,
    seconds: f64,
}

/// Every so many-th request of the pace: when each was sent and answered.
fn read(
    address: &str,
    wanted: &[Wanted],
    pace: Pace,
    first: usize,
) -> anyhow::Result<Vec<(u128, u128)>> {
    let mut connection = Connection::open(address)?;
    let mut times = Vec::new();
    for (number, wanted) in wanted.iter().cycle().enumerate().skip(first).step_by(CONNECTIONS) {
        let due_seconds = f64::from(u32::try_from(number)?) / pace.per_second;
        if due_seconds >= WARM_UP_SECONDS + pace.seconds {
            break;
        }
        let due = pace.start + Duration::from_secs_f64(due_seconds);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = due.elapsed();
        let body = connection.ask(&wanted.request)?;
        let answered = due.elapsed();
        ensure!(body == wanted.body, "an answer differs from the one before it");
        if due_seconds >= WARM_UP_SECONDS {
            times.push((sent.as_micros(), answered.as_micros()));
        }
    }
    Ok(times)
}

/// A session's request, and what it is answered with.
struct Wanted {
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Wanted {
    fn read(
        connection: &mut Connection,
        address: &str,
        key: &str,
        session: &str,
        turns: usize,
    ) -> anyhow::Result<Self> {
        let request = format!(
            "GET /api/billing/sessions/{session}/ HTTP/1.1\r\nHost: {address}\r\n\
             X-API-Key: {key}\r\n\r\n"
        );
        let body = connection.ask(request.as_bytes())?.to_vec();
        let answer: Value = serde_json::from_slice(&body)?;
        let data = &answer["data"];
        ensure!(data["session_id"] == session, "{session} was answered with another session");
        let transcript = data["transcript"].as_array().map_or(0, Vec::len);
        ensure!(transcript == turns, "{session} has {transcript} turns, not {turns}");
        Ok(Self { request: request.into_bytes(), body })
    }
}

/// One connection, kept open.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::with_capacity(256 * 1024) })
    }

    /// The body of a 200; anything else is an error.
    fn ask(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        self.stream.write_all(request)?;
        self.received.clear();
        let head = loop {
            let end = self.received.windows(4).position(|four| four == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None => self.receive()?,
            }
        };
        let length = head + content_length(&self.received[..head])?;
        while self.received.len() < length {
            self.receive()?;
        }
        ensure!(self.received.len() == length, "more came than one answer");
        Ok(&self.received[head..])
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => bail!("the connection was closed"),
            count => self.received.extend_from_slice(&chunk[..count]),
        }
        Ok(())
    }
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{}", head.lines().next().unwrap_or_default());
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Ok(length.context("an answer without its length")?.1.trim().parse()?)
}
