//! What one thread of a connection does in its turns.

use super::Connection;
use super::drive::Driver;
use super::pace::Kind;
use super::reader::Reader;
use crate::execute::{Outcome, perform};
use crate::exports::{Event, Exports};
use crate::reply::{Answer, Batch};
use crate::transmission::Request;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Replies of a batch that is run by the reading thread leave when they are this many bytes.
const BATCH_BYTES: u64 = 256 << 10;
/// Pieces of one vectored write.
const SLICES: usize = 128;

pub(super) struct Worker<'a, E: Exports> {
    connection: &'a Arc<Connection<E>>,
    device: &'a E::Device,
    driver: Driver,
    /// Replies of this thread that are not posted yet.
    replies: Batch,
}

impl<'a, E: Exports> Worker<'a, E> {
    pub(super) fn new(connection: &'a Arc<Connection<E>>, device: &'a E::Device) -> Worker<'a, E> {
        let driver = Driver::for_this_thread();
        Worker { connection, device, driver, replies: Batch::default() }
    }

    /// Runs one request from the queue, while others read and send.
    pub(super) fn run_queued(&mut self, request: Request) {
        self.run(request, |_| {});
        self.connection.post(&mut self.replies);
    }

    /// Reads once and runs what came, as far as it is not expected to wait.
    pub(super) fn read(&mut self, mut reader: Box<Reader>) {
        let connection = self.connection;
        let limits = &connection.shared.limits;
        let read = reader
            .read(&connection.socket, |weight| connection.lock().in_flight.admit(weight, limits));
        let mut batch = std::mem::take(&mut reader.batch);
        if let Err(reason) = read {
            let mut state = connection.lock();
            state.reader = Some(reader);
            state.end_with(reason);
            state.queue.extend(batch);
            drop(state);
            return connection.turn.notify_all();
        }
        let is_slow = |request: &Request| connection.pace.is_slow(Kind::of(&request.operation));
        if batch.iter().any(is_slow) {
            let (slow, fast) = batch.into_iter().partition::<VecDeque<_>, _>(is_slow);
            batch = fast;
            let mut state = connection.lock();
            state.queue.extend(slow);
            if !batch.is_empty() {
                connection.call_another(state);
            }
        }
        self.run_batch(reader, batch);
    }

    /// Runs requests one after the other while keeping the read side, until one waits or the
    /// next ones are expected to; then the rest goes to the queue and another thread may read.
    fn run_batch(&mut self, reader: Box<Reader>, mut batch: VecDeque<Request>) {
        let connection = self.connection;
        let mut reader = Some(reader);
        while let Some(request) = batch.pop_front() {
            self.run(request, |replies| {
                let mut state = connection.lock();
                state.outbox.append(std::mem::take(replies));
                state.queue.extend(batch.drain(..));
                connection.return_reader(&mut state, &mut reader);
                connection.call_another(state);
            });
            if batch.front().is_some_and(|next| connection.pace.is_slow(Kind::of(&next.operation)))
            {
                let mut state = connection.lock();
                state.queue.extend(batch.drain(..));
                connection.call_another(state);
            }
            if self.replies.length() >= BATCH_BYTES {
                connection.post(&mut self.replies);
            }
        }
        if let Some(reader) = &mut reader {
            reader.batch = batch; // empty; its memory serves again
        }
        connection.return_reader(&mut connection.lock(), &mut reader);
        connection.post(&mut self.replies);
    }

    /// Runs one request and keeps its reply. `before_waiting` gets the replies kept so far if
    /// the device does not answer at once: it must not wait for the client.
    fn run(&mut self, request: Request, before_waiting: impl FnOnce(&mut Batch)) {
        let Connection { terms, pace, client, name, shared, .. } = &**self.connection;
        let Request { cookie, operation } = request;
        let kind = Kind::of(&operation);
        let weight = operation.weight();
        let begun = Instant::now();
        let future = perform(self.device, terms, operation);
        let replies = &mut self.replies;
        let (outcome, error) = self.driver.drive(future, || before_waiting(replies));
        pace.note(kind, weight, begun.elapsed());
        if let Some(error) = &error {
            shared.report(Event::RequestFailed { client, name, error });
        }
        if matches!(outcome, Outcome::Failed(..)) {
            self.connection.lock().failures += 1;
        }
        self.replies.answer(terms, Answer { cookie, outcome }, weight);
    }
}

impl<E: Exports> Connection<E> {
    /// Makes the read side free again, unless the connection ended meanwhile.
    fn return_reader(&self, state: &mut super::State<E::Device>, reader: &mut Option<Box<Reader>>) {
        let Some(reader) = reader.take() else { return };
        match state.end {
            None => state.reader = Some(reader),
            Some(_) => state.counts = reader.counts(),
        }
    }
}

/// Sends all of `batch`.
pub(super) fn send(socket: &UnixStream, batch: &mut Batch) -> io::Result<()> {
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = batch.slices(&mut slices);
        if count == 0 {
            return Ok(());
        }
        let mut no_ancillary = SendAncillaryBuffer::default();
        // NOSIGNAL: a client that went away must not raise SIGPIPE, whatever the program does with it.
        match sendmsg(socket, &slices[..count], &mut no_ancillary, SendFlags::NOSIGNAL) {
            Ok(sent) => batch.advance(sent),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
