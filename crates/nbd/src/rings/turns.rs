//! The loop of one ring's thread. Each turn takes all completions, reads every socket that has
//! something, starts what was asked, sends every reply that is there, and enters the kernel once, or
//! more often if it starts much.

use super::link::{Link, Sent};
use super::{Door, turn_away};
use crate::execute::Outcome;
use crate::exports::{EndReason, Exports};
use crate::server::Shared;
use crate::transmission::{Operation, Request, Terms};
use blockyard_block::Error;
use blockyard_io::{Panicked, Readiness, Ring, Source, Tasks};
use rustix::net::sockopt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Replies leave at the latest when they are this many bytes.
const BATCH_BYTES: u64 = 256 << 10;

/// What is asked for.
const SEND_BUFFER_BYTES: usize = 1 << 20;

type Output = (Outcome, Option<Error>);

/// Whose request a future is.
struct Asked {
    link: u32,
    cookie: u64,
    weight: u64,
}

pub(super) struct Turns<'a, E: Exports, F: Future<Output = Output>, M> {
    ring: &'a Ring,
    door: Arc<Door<E>>,
    shared: Arc<Shared<E>>,
    /// Makes the future of a request.
    task: M,
    tasks: Tasks<F, Asked>,
    links: Vec<Place<E>>,
    free: Vec<u32>,
    /// Connections to look after in this turn, and in the next one.
    listed: Vec<u32>,
    ready: Vec<Readiness>,
}

/// A connection's place; the generation tells events of an earlier one there.
struct Place<E: Exports> {
    generation: u32,
    link: Option<Link<E>>,
}

impl<'a, E, F, M> Turns<'a, E, F, M>
where
    E: Exports,
    F: Future<Output = Output>,
    M: Fn(Arc<E::Device>, Arc<Terms>, Operation) -> F,
{
    pub(super) fn new(
        ring: &'a Ring,
        door: Arc<Door<E>>,
        shared: Arc<Shared<E>>,
        task: M,
    ) -> Turns<'a, E, F, M> {
        Turns {
            ring,
            door,
            shared,
            task,
            tasks: Tasks::new(ring.notifier()),
            links: Vec::new(),
            free: Vec::new(),
            listed: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Serves until the door is closed and every connection is gone.
    pub(super) fn run(mut self) {
        loop {
            self.take_newcomers();
            self.note_readiness();
            self.take_results();
            self.look_after_links();
            if self.is_done() {
                return;
            }
            let Turns { ring, tasks, door, ready, listed, .. } = &mut self;
            let may_sleep =
                || listed.is_empty() && tasks.none_woken() && door.newcomers().waiting.is_empty();
            if let Err(error) = ring.turn(ready, may_sleep) {
                return self.give_up(&error.to_string());
            }
        }
    }

    fn is_done(&self) -> bool {
        let newcomers = self.door.newcomers();
        newcomers.closed && newcomers.waiting.is_empty() && self.free.len() == self.links.len()
    }

    fn take_newcomers(&mut self) {
        let newcomers = std::mem::take(&mut self.door.newcomers().waiting);
        for opened in newcomers {
            let index = self.free.pop().unwrap_or_else(|| {
                self.links.push(Place { generation: 0, link: None });
                (self.links.len() - 1) as u32 // bounded by the limit of connections
            });
            let mut link = Link::new(opened);
            let source: Source = link.socket().clone();
            // As much as the system allows: a reply of 256 KiB then leaves in one piece.
            let _ = sockopt::set_socket_send_buffer_size(link.socket(), SEND_BUFFER_BYTES);
            let watched = link.socket().set_nonblocking(true).and_then(|()| {
                let token = token(index, self.links[index as usize].generation);
                self.ring.watch(source, token)
            });
            match watched {
                Ok(watch) => link.watch = Some(watch),
                Err(error) => link.break_off(EndReason::Broken(error.to_string())),
            }
            list(&mut self.listed, &mut link, index);
            self.links[index as usize].link = Some(link);
        }
    }

    fn note_readiness(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        for event in ready.drain(..) {
            let (index, generation) = (event.token as u32, (event.token >> 32) as u32);
            let Some(place) = self.links.get_mut(index as usize) else { continue };
            let Some(link) = place.link.as_mut().filter(|_| place.generation == generation) else {
                continue;
            };
            link.note_readiness(event);
            list(&mut self.listed, link, index);
        }
        self.ready = ready;
    }

    fn take_results(&mut self) {
        let Turns { tasks, links, listed, shared, .. } = self;
        tasks.run_woken(|asked, result| {
            let place = &mut links[asked.link as usize];
            let link = place.link.as_mut().expect("a connection outlives its requests");
            finish(link, shared, &asked, result);
            list(listed, link, asked.link);
        });
    }

    /// Reads, starts, sends and closes, wherever something happened.
    fn look_after_links(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        for index in listed.drain(..) {
            let Some(link) = self.links[index as usize].link.as_mut() else { continue };
            link.listed = false;
            if link.may_read(&self.shared.limits) {
                // Replies that are there do not wait for what new requests cost (hashing).
                self.send(index);
                self.read_and_start(index);
            }
            self.send(index);
            let Turns { links, listed, shared, .. } = self;
            let Some(link) = links[index as usize].link.as_mut() else { continue };
            if link.is_over() {
                self.close(index);
            } else if link.may_read(&shared.limits) {
                list(listed, link, index);
            }
        }
        // Its memory serves again, unless something is on the new one.
        if self.listed.is_empty() {
            self.listed = listed;
        }
    }

    fn read_and_start(&mut self, index: u32) {
        let Turns { ring, links, tasks, shared, task, .. } = self;
        let Place { generation, link: Some(link) } = &mut links[index as usize] else { return };
        link.read(&shared.limits);
        let mut batch = std::mem::take(link.batch());
        for Request { cookie, operation } in batch.drain(..) {
            let asked = Asked { link: index, cookie, weight: operation.weight() };
            let future = task(Arc::clone(&link.device), Arc::clone(&link.terms), operation);
            link.request_started();
            if let Some((asked, result)) = tasks.start(asked, future) {
                finish(link, shared, &asked, result);
            }
            if link.outbox_length() >= BATCH_BYTES {
                send(ring, link, token(index, *generation));
            }
        }
        *link.batch() = batch;
    }

    fn send(&mut self, index: u32) {
        let Place { generation, link } = &mut self.links[index as usize];
        if let Some(link) = link {
            send(self.ring, link, token(index, *generation));
        }
    }

    fn close(&mut self, index: u32) {
        let place = &mut self.links[index as usize];
        let Some(mut link) = place.link.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        if let Some(watch) = link.watch.take() {
            // A watch that cannot be taken back holds the socket until the ring ends.
            let _ = self.ring.unwatch(watch);
        }
        self.door.load.fetch_sub(1, Ordering::Relaxed);
        link.close(&self.shared);
    }

    /// The ring does not work any more: nobody can be served by it.
    fn give_up(mut self, error: &str) {
        let reason = EndReason::Broken(format!("the ring failed: {error}"));
        for place in &mut self.links {
            if let Some(mut link) = place.link.take() {
                link.break_off(reason.clone());
                link.close(&self.shared);
            }
        }
        let mut newcomers = self.door.newcomers();
        newcomers.broken = true;
        let waiting = std::mem::take(&mut newcomers.waiting);
        drop(newcomers);
        waiting.into_iter().for_each(|opened| turn_away(&self.shared, opened));
    }
}

fn token(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// Puts a connection on the list, once.
fn list<E: Exports>(listed: &mut Vec<u32>, link: &mut Link<E>, index: u32) {
    if !std::mem::replace(&mut link.listed, true) {
        listed.push(index);
    }
}

fn finish<E: Exports>(
    link: &mut Link<E>,
    shared: &Shared<E>,
    asked: &Asked,
    result: Result<Output, Panicked>,
) {
    match result {
        Ok(output) => link.answer(shared, asked.cookie, asked.weight, output),
        Err(Panicked) => link.defect(asked.weight),
    }
}

/// Sends what the socket takes, and has it told when it takes more.
fn send<E: Exports>(ring: &Ring, link: &mut Link<E>, token: u64) {
    if link.blocked || link.send() == Sent::All {
        return;
    }
    link.blocked = true;
    if let Err(error) = ring.watch_writable(link.socket().clone(), token) {
        link.break_off(EndReason::Broken(error.to_string()));
    }
}
