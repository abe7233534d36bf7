//! Runs a load: one thread drives all connections.

use super::Address;
use super::connection::Connection;
use super::shape::{Load, Operation, Pattern};
use super::wire::Export;
use crate::Result;
use crate::histogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
use std::time::{Duration, Instant};

/// What became of a load. Every request that was sent was answered, without an error.
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Histogram,
}

/// Runs `load` until its time is over or its requests are, and then until all are answered. `meter`
/// is called when the connections are open and again after the last answer, while they still are.
pub(crate) fn run<M>(
    address: &Address,
    load: &Load,
    meter: impl FnMut() -> Result<M>,
) -> Result<(Outcome, M, M)> {
    run_on(std::slice::from_ref(address), load, meter)
}

/// The same, with the connections dealt out over several exports.
pub(crate) fn run_on<M>(
    addresses: &[Address],
    load: &Load,
    mut meter: impl FnMut() -> Result<M>,
) -> Result<(Outcome, M, M)> {
    let open = |index| Connection::open(&addresses[index % addresses.len()], load, index);
    let mut connections = (0..load.connections).map(open).collect::<Result<Vec<_>>>()?;
    let export = connections.first().ok_or("a load without connections")?.export();
    refuse_what_it_cannot(load, export)?;
    let mut latencies = Histogram::new();
    let before = meter()?;
    let begun = Instant::now();
    drive(&mut connections, begun + load.time, &mut latencies)?;
    let elapsed = begun.elapsed();
    let after = meter()?;
    if load.writes() {
        addresses.iter().try_for_each(|address| flush(address, export))?;
    }
    connections.into_iter().try_for_each(Connection::close)?;
    Ok((Outcome { elapsed, latencies }, before, after))
}

fn refuse_what_it_cannot(load: &Load, export: Export) -> Result<()> {
    match load.operation {
        Operation::Trim if !export.can_trim() => Err("the server does not take trims".into()),
        Operation::DurableWrite if !export.can_flush() => {
            Err("the server does not take flushes".into())
        }
        _ => Ok(()),
    }
}

fn drive(
    connections: &mut [Connection],
    deadline: Instant,
    latencies: &mut Histogram,
) -> Result<()> {
    let mut now = Instant::now();
    loop {
        for connection in &mut *connections {
            if now < deadline {
                connection.refill(now);
            }
            connection.send()?;
        }
        if connections.iter().all(Connection::idle) {
            return Ok(());
        }
        match &mut *connections {
            // The usual case costs one system call less.
            [one] if !one.wants_to_send() => one.receive(true, latencies)?,
            some => receive_from_some(some, latencies)?,
        }
        now = Instant::now();
    }
}

fn receive_from_some(connections: &mut [Connection], latencies: &mut Histogram) -> Result<()> {
    let interest = |connection: &Connection| match connection.wants_to_send() {
        true => PollFlags::IN | PollFlags::OUT,
        false => PollFlags::IN,
    };
    let ready: Vec<bool> = {
        let as_poll = |c| PollFd::from_borrowed_fd(Connection::fd(c), interest(c));
        let mut polled: Vec<PollFd<'_>> = connections.iter().map(as_poll).collect();
        poll(&mut polled, None)?;
        polled.iter().map(|one| one.revents().intersects(!PollFlags::OUT)).collect()
    };
    for (connection, ready) in connections.iter_mut().zip(ready) {
        if ready {
            connection.receive(false, latencies)?;
        }
    }
    Ok(())
}

/// So that what a load has left in caches does not weigh on the next one.
fn flush(address: &Address, export: Export) -> Result<()> {
    if !export.can_flush() {
        return Ok(());
    }
    let load = Load::new(Operation::Flush, Pattern::Through, super::stamp::CLUSTER, 1)
        .within(super::stamp::CLUSTER as u64);
    let mut connection = [Connection::open(address, &load, 0)?];
    drive(&mut connection, Instant::now() + load.time, &mut Histogram::new())?;
    let [connection] = connection;
    connection.close()
}
