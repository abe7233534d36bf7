//! One connection of a ring: what was read, what is in flight, what is to be sent.

use crate::connection::Opened;
use crate::connection::reader::Reader;
use crate::execute::Outcome;
use crate::exports::{ClientInfo, Counts, EndReason, Event, Exports, InFlight, Limits};
use crate::reply::{Answer, Batch};
use crate::server::{Seat, Shared};
use crate::transmission::Terms;
use blockyard_block::Error;
use blockyard_io::{Readiness, WatchId};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Pieces of one vectored write.
const SLICES: usize = 128;

pub(super) struct Link<E: Exports> {
    seat: Seat,
    client: ClientInfo,
    name: String,
    pub(super) device: Arc<E::Device>,
    pub(super) terms: Arc<Terms>,
    pub(super) watch: Option<WatchId>,
    reader: Reader,
    /// The client sends no more than the socket holds: read to the end.
    hung_up: bool,
    /// The socket takes no more for now.
    pub(super) blocked: bool,
    outbox: Batch,
    in_flight: InFlight,
    failures: u64,
    /// Requests whose futures are not done.
    running: usize,
    /// The first reason not to read on.
    end: Option<EndReason>,
    /// The socket takes no more replies, ever.
    broken: bool,
    /// On the ring's list of connections to look after.
    pub(super) listed: bool,
}

/// What sending came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// Come back when the socket is writable.
    Blocked,
}

impl<E: Exports> Link<E> {
    pub(super) fn new(opened: Opened<E>) -> Link<E> {
        let Opened { seat, client, name, device, terms, early } = opened;
        Link {
            seat,
            client,
            name,
            device,
            watch: None,
            reader: Reader::new(terms.clone(), early),
            terms: Arc::new(terms),
            hung_up: false,
            blocked: false,
            outbox: Batch::default(),
            in_flight: InFlight::default(),
            failures: 0,
            running: 0,
            end: None,
            broken: false,
            listed: false,
        }
    }

    pub(super) fn socket(&self) -> &Arc<UnixStream> {
        self.seat.socket()
    }

    pub(super) fn note_readiness(&mut self, event: Readiness) {
        if event.readable {
            self.reader.socket_is_readable();
        }
        self.hung_up |= event.ended;
        self.blocked &= !event.writable;
    }

    /// Whether there is something to read and room for it.
    pub(super) fn may_read(&self, limits: &Limits) -> bool {
        let has_room =
            self.reader.is_within_payload() || self.in_flight.has_room(self.reader.wants(), limits);
        let has_input = self.hung_up || !self.reader.is_drained();
        has_input && self.end.is_none() && has_room
    }

    /// Reads once; the requests that came are in [`Link::batch`].
    pub(super) fn read(&mut self, limits: &Limits) {
        let in_flight = &mut self.in_flight;
        let read = self.reader.read(self.seat.socket(), |weight| in_flight.admit(weight, limits));
        if let Err(reason) = read {
            self.end.get_or_insert(reason);
        }
    }

    /// The requests that were read last. Give the emptied queue back, for its memory.
    pub(super) fn batch(
        &mut self,
    ) -> &mut std::collections::VecDeque<crate::transmission::Request> {
        &mut self.reader.batch
    }

    /// Bytes of replies that wait to be sent.
    pub(super) fn outbox_length(&self) -> u64 {
        self.outbox.length()
    }

    /// The future of a request is about to be started.
    pub(super) fn request_started(&mut self) {
        self.running += 1;
    }

    pub(super) fn answer(
        &mut self,
        shared: &Shared<E>,
        cookie: u64,
        weight: u64,
        (outcome, error): (Outcome, Option<Error>),
    ) {
        self.running -= 1;
        if let Some(error) = &error {
            let (client, name) = (&self.client, self.name.as_str());
            shared.report(Event::RequestFailed { client, name, error });
        }
        self.failures += u64::from(matches!(outcome, Outcome::Failed(..)));
        self.outbox.answer(&self.terms, Answer { cookie, outcome }, weight);
    }

    /// The device panicked: the client gets no answer, and the connection ends.
    pub(super) fn defect(&mut self, weight: u64) {
        self.running -= 1;
        self.in_flight.release(1, weight);
        self.break_off(EndReason::Defect);
    }

    /// Ends the connection without sending what waits.
    pub(super) fn break_off(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
        self.broken = true;
        self.blocked = false;
        self.forget_outbox();
        let _ = self.socket().shutdown(Shutdown::Both); // it may be closed already
    }

    fn forget_outbox(&mut self) {
        self.in_flight.release(self.outbox.requests(), self.outbox.weight());
        self.outbox.clear();
    }

    /// Sends as much of the replies as the socket takes.
    pub(super) fn send(&mut self) -> Sent {
        if self.broken {
            self.forget_outbox();
        }
        if self.outbox.is_empty() {
            return Sent::All;
        }
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.outbox.slices(&mut slices);
            if count == 0 {
                self.forget_outbox();
                return Sent::All;
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let mut no_ancillary = SendAncillaryBuffer::default();
            match sendmsg(self.seat.socket(), &slices[..count], &mut no_ancillary, flags) {
                Ok(sent) => self.outbox.advance(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Blocked,
                Err(error) => {
                    self.break_off(EndReason::Broken(error.to_string()));
                    return Sent::All;
                }
            }
        }
    }

    /// Whether everything is over: nothing comes any more, and all that came is answered. A write
    /// whose payload was cut off is not.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() && self.running == 0 && self.outbox.is_empty()
    }

    /// Closes the device, then the socket, then tells.
    pub(super) fn close(self, shared: &Shared<E>) {
        let Link { seat, client, name, device, reader, failures, end, .. } = self;
        drop(device);
        let _ = seat.socket().shutdown(Shutdown::Both); // it may be closed already
        let counts = Counts { failures, ..reader.counts() };
        let reason = seat.reason(end.unwrap_or(EndReason::Defect));
        let (client, name) = (&client, Some(name.as_str()));
        shared.report(Event::Disconnected { client, name, reason: &reason, counts });
    }
}
