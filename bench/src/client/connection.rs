//! One connection: the requests in flight, what is to be sent, and what came in. It never waits;
//! waiting is [`super::load`]'s business.

use super::shape::{Load, Operation, Requests};
use super::{Address, stamp, wire};
use crate::Result;
use crate::histogram::Histogram;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const INPUT_BYTES: usize = 256 << 10;
/// Requests sent with one call.
const BATCH: usize = 128;

/// One place for a request in flight. Its number is the request's cookie.
struct Slot {
    /// None while the slot is free.
    operation: Option<Operation>,
    flushing: bool,
    offset: u64,
    begun: Instant,
    header: [u8; wire::REQUEST_BYTES],
    payload: Vec<u8>,
}

pub(super) struct Connection {
    socket: UnixStream,
    export: wire::Export,
    block: usize,
    stamped: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots whose request is not sent yet, and how much of the first one is.
    queue: VecDeque<usize>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    /// The slot whose read is coming in, and how many bytes of it have come.
    reading: Option<(usize, usize)>,
    requests: Requests,
    number: u64,
}

impl Connection {
    pub(super) fn open(address: &Address, load: &Load, index: usize) -> Result<Connection> {
        let mut socket = UnixStream::connect(&address.socket)
            .map_err(|error| format!("{}: {error}", address.socket.display()))?;
        let export = wire::open(&mut socket, &address.export)?;
        if export.size < load.block as u64 {
            return Err(format!("the export has {} bytes", export.size).into());
        }
        let payload = |slot: usize| match load.writes() {
            true => stamp::noise(load.block, load.seed << 32 | (index * 1000 + slot) as u64),
            false => Vec::new(),
        };
        let slot = |slot| Slot {
            operation: None,
            flushing: false,
            offset: 0,
            begun: Instant::now(),
            header: [0; wire::REQUEST_BYTES],
            payload: payload(slot),
        };
        Ok(Connection {
            socket,
            export,
            block: load.block,
            stamped: load.stamped,
            slots: (0..load.depth).map(slot).collect(),
            free: (0..load.depth).rev().collect(),
            queue: VecDeque::new(),
            sent: 0,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            reading: None,
            requests: Requests::new(load, index, export.size),
            number: load.seed << 40,
        })
    }

    pub(super) fn export(&self) -> wire::Export {
        self.export
    }

    pub(super) fn idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn wants_to_send(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Gives a request to each free slot while there are requests.
    pub(super) fn refill(&mut self, now: Instant) {
        while let Some(&slot) = self.free.last() {
            let Some((operation, offset)) = self.requests.next() else { return };
            self.free.pop();
            self.begin(slot, operation, offset, now);
        }
    }

    fn begin(&mut self, slot: usize, operation: Operation, offset: u64, now: Instant) {
        self.number += 1;
        let place = &mut self.slots[slot];
        let (command, length) = match operation {
            Operation::Read => (wire::READ, self.block),
            Operation::Write | Operation::DurableWrite => (wire::WRITE, self.block),
            Operation::Trim => (wire::TRIM, self.block),
            Operation::Flush => (wire::FLUSH, 0),
        };
        if command == wire::WRITE {
            stamp::put(&mut place.payload, offset, self.number);
        }
        let offset_sent = if command == wire::FLUSH { 0 } else { offset };
        place.header = wire::request(command, slot as u64, offset_sent, length as u32);
        place.operation = Some(operation);
        place.flushing = false;
        place.offset = offset;
        place.begun = now;
        self.queue.push_back(slot);
    }

    /// Sends what the socket takes without waiting.
    pub(super) fn send(&mut self) -> Result<()> {
        while !self.queue.is_empty() {
            let mut skip = self.sent;
            let mut parts = Vec::with_capacity(2 * BATCH);
            for &slot in self.queue.iter().take(BATCH) {
                for part in [&self.slots[slot].header[..], payload_of(&self.slots[slot])] {
                    let gone = skip.min(part.len());
                    skip -= gone;
                    if gone < part.len() {
                        parts.push(IoSlice::new(&part[gone..]));
                    }
                }
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(
                &self.socket,
                &parts,
                &mut SendAncillaryBuffer::default(),
                flags,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(format!("the server does not listen: {error}").into()),
            }
            self.drop_sent();
        }
        Ok(())
    }

    fn drop_sent(&mut self) {
        while let Some(&slot) = self.queue.front() {
            let length = wire::REQUEST_BYTES + payload_of(&self.slots[slot]).len();
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.queue.pop_front();
        }
    }

    /// Takes what has come in, or, with `wait`, waits for the first bytes.
    pub(super) fn receive(&mut self, wait: bool, latencies: &mut Histogram) -> Result<()> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let count = match rustix::net::recv(&self.socket, &mut self.input[self.filled..], flags) {
            Ok((0, _)) => return Err("the server closed the connection".into()),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(format!("no reply: {error}").into()),
        };
        self.filled += count;
        self.take_replies(Instant::now(), latencies)
    }

    fn take_replies(&mut self, now: Instant, latencies: &mut Histogram) -> Result<()> {
        let mut at = 0;
        loop {
            let rest = &self.input[at..self.filled];
            if let Some((slot, come)) = self.reading {
                let whole = rest.len().min(self.block - come) / stamp::CLUSTER * stamp::CLUSTER;
                if whole == 0 {
                    break;
                }
                if self.stamped {
                    check_stamps(&rest[..whole], self.slots[slot].offset + come as u64)?;
                }
                at += whole;
                self.reading = Some((slot, come + whole));
                if come + whole == self.block {
                    self.reading = None;
                    self.end(slot, now, latencies);
                }
            } else if rest.len() >= wire::REPLY_BYTES {
                let (cookie, error) = wire::reply(rest)?;
                at += wire::REPLY_BYTES;
                self.answer(cookie, error, now, latencies)?;
            } else {
                break;
            }
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn answer(&mut self, cookie: u64, error: u32, now: Instant, to: &mut Histogram) -> Result<()> {
        let slot = usize::try_from(cookie)?;
        let place = self.slots.get_mut(slot).ok_or("a reply to no request")?;
        let operation = place.operation.ok_or("a second reply to a request")?;
        if self.queue.contains(&slot) {
            return Err("a reply to a request that was not sent".into());
        }
        if error != 0 {
            return Err(format!("{operation:?} at {}: NBD error {error}", place.offset).into());
        }
        match operation {
            Operation::Read => self.reading = Some((slot, 0)),
            Operation::DurableWrite if !place.flushing => {
                place.flushing = true;
                place.header = wire::request(wire::FLUSH, cookie, 0, 0);
                self.queue.push_back(slot);
            }
            _ => self.end(slot, now, to),
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, now: Instant, latencies: &mut Histogram) {
        let place = &mut self.slots[slot];
        latencies.record((now - place.begun).as_nanos() as u64);
        place.operation = None;
        self.free.push(slot);
    }

    /// Tells the server that this is the end.
    pub(super) fn close(self) -> Result<()> {
        use std::io::Write;
        let mut socket = self.socket;
        Ok(socket.write_all(&wire::request(2, 0, 0, 0))?)
    }
}

fn payload_of(slot: &Slot) -> &[u8] {
    match slot.operation {
        Some(Operation::Write) => &slot.payload,
        Some(Operation::DurableWrite) if !slot.flushing => &slot.payload,
        _ => &[],
    }
}

fn check_stamps(clusters: &[u8], offset: u64) -> Result<()> {
    for (index, cluster) in clusters.chunks_exact(stamp::CLUSTER).enumerate() {
        let place = offset + (index * stamp::CLUSTER) as u64;
        if !stamp::holds(cluster, place) {
            return Err(format!("what was read at {place} was never written there").into());
        }
    }
    Ok(())
}
