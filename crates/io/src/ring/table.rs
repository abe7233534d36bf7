//! The operations in flight. Each slot owns what the kernel may touch until its completion is taken.

use super::{Readiness, Source};
use blockyard_block::{Buffer, BufferMut};
use io_uring::squeue::Entry;
use io_uring::{cqueue, opcode, types};
use rustix::event::PollFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::task::Waker;

/// What an operation works on.
pub(super) enum Held {
    /// Fills the buffer from `from` on.
    Read {
        file: Arc<File>,
        buffer: BufferMut,
        from: usize,
    },
    /// Writes the buffer from `from` on.
    Write {
        file: Arc<File>,
        data: Buffer,
        from: usize,
    },
    Sync {
        file: Arc<File>,
    },
    /// Tells again and again; `wanted` until it is taken back.
    Watch {
        source: Source,
        token: u64,
        wanted: bool,
    },
    Writable {
        source: Source,
        token: u64,
    },
    /// Ends the watch in the slot.
    Removal {
        of: u32,
    },
}

enum State {
    Free {
        next: Option<u32>,
    },
    /// Whom to wake, once the future has been polled.
    InFlight(Option<Waker>),
    /// Nobody waits for the result.
    Abandoned,
    Done(i32),
}

struct Slot {
    held: Option<Held>,
    state: State,
}

#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    first_free: Option<u32>,
    in_flight: usize,
}

/// What completions came to.
#[derive(Default)]
pub(super) struct Reaped {
    pub(super) wakers: Vec<Waker>,
    pub(super) ready: Vec<Readiness>,
    /// Watches that the kernel ended and somebody still wants.
    pub(super) ended_watches: Vec<u32>,
}

impl Table {
    /// Takes a slot for an operation; the entry is to be pushed. `offset` is where in the file.
    pub(super) fn insert(&mut self, held: Held, offset: u64) -> (u32, Entry) {
        let state = match held {
            Held::Read { .. } | Held::Write { .. } | Held::Sync { .. } => State::InFlight(None),
            Held::Watch { .. } | Held::Writable { .. } | Held::Removal { .. } => State::Abandoned,
        };
        let slot = Slot { held: Some(held), state };
        let index = match self.first_free {
            Some(index) => {
                let place = &mut self.slots[index as usize];
                let State::Free { next } = place.state else { unreachable!("on the free list") };
                self.first_free = next;
                *place = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32 // bounded by what connections may have in flight
            }
        };
        self.in_flight += 1;
        (index, self.entry(index, offset))
    }

    /// What to push for the operation in a slot.
    pub(super) fn entry(&mut self, index: u32, offset: u64) -> Entry {
        let held = self.slots[index as usize].held.as_mut().expect("a slot in use holds something");
        let entry = match held {
            Held::Read { file, buffer, from } => {
                let (fd, bytes) = (fd(file), &mut buffer[*from..]);
                opcode::Read::new(fd, bytes.as_mut_ptr(), bytes.len() as u32).offset(offset).build()
            }
            Held::Write { file, data, from } => {
                let (fd, bytes) = (fd(file), &data[*from..]);
                opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(offset).build()
            }
            Held::Sync { file } => {
                opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build()
            }
            Held::Watch { source, .. } => {
                let events = PollFlags::IN | PollFlags::RDHUP;
                opcode::PollAdd::new(source_fd(source), events.bits().into()).multi(true).build()
            }
            Held::Writable { source, .. } => {
                opcode::PollAdd::new(source_fd(source), PollFlags::OUT.bits().into()).build()
            }
            Held::Removal { of } => opcode::PollRemove::new(u64::from(*of)).build(),
        };
        entry.user_data(u64::from(index))
    }

    /// How many operations the kernel may still be at.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The result, if it is there, and what the operation held; else remembers whom to wake.
    pub(super) fn poll(&mut self, index: u32, waker: &Waker) -> Option<(i32, Held)> {
        let slot = &mut self.slots[index as usize];
        match &mut slot.state {
            State::Done(result) => {
                let result = *result;
                let held = slot.held.take().expect("kept until the result is taken");
                self.put_on_free_list(index);
                Some((result, held))
            }
            State::InFlight(Some(before)) => {
                before.clone_from(waker);
                None
            }
            State::InFlight(none) => {
                *none = Some(waker.clone());
                None
            }
            State::Abandoned | State::Free { .. } => unreachable!("polled by its only owner"),
        }
    }

    /// Nobody will ask for the result. What the kernel may touch stays.
    pub(super) fn abandon(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        match slot.state {
            State::Done(_) => {
                slot.held = None;
                self.put_on_free_list(index);
            }
            _ => slot.state = State::Abandoned,
        }
    }

    /// Takes back an operation that was never pushed.
    pub(super) fn free(&mut self, index: u32) {
        self.slots[index as usize].held = None;
        self.in_flight -= 1;
        self.put_on_free_list(index);
    }

    /// Takes a watch back; true if the kernel still has it and must be told.
    pub(super) fn unwant(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        if matches!(slot.state, State::Done(_)) {
            self.abandon(index);
            return false;
        }
        if let Some(Held::Watch { wanted, .. }) = &mut slot.held {
            *wanted = false;
        }
        true
    }

    /// Takes all watches back; returns them.
    pub(super) fn unwant_all(&mut self) -> Vec<u32> {
        let mut watches = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            match &mut slot.held {
                Some(Held::Watch { wanted, .. }) => *wanted = false,
                Some(Held::Writable { .. }) => {}
                _ => continue,
            }
            watches.push(index as u32);
        }
        watches
    }

    pub(super) fn complete(&mut self, completion: &cqueue::Entry, reaped: &mut Reaped) {
        let index = completion.user_data() as u32;
        let slot = &mut self.slots[index as usize];
        let result = completion.result();
        if let Some(Held::Watch { token, wanted: true, .. } | Held::Writable { token, .. }) =
            slot.held
        {
            reaped.ready.push(readiness(token, result));
        }
        if cqueue::more(completion.flags()) {
            return;
        }
        let wanted = matches!(slot.held, Some(Held::Watch { wanted: true, .. }));
        if wanted && result >= 0 {
            return reaped.ended_watches.push(index);
        }
        self.in_flight -= 1;
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::InFlight(waker) => reaped.wakers.extend(waker),
            // The slot is its owner's until the watch is taken back.
            _ if wanted => {}
            _ => {
                slot.held = None;
                self.put_on_free_list(index);
            }
        }
    }

    fn put_on_free_list(&mut self, index: u32) {
        self.slots[index as usize].state = State::Free { next: self.first_free };
        self.first_free = Some(index);
    }
}

/// What a poll told. One that failed says nothing, so the source is to be tried.
fn readiness(token: u64, result: i32) -> Readiness {
    let events = PollFlags::from_bits_retain(result as u16);
    let broken = result < 0 || events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    Readiness {
        token,
        readable: broken || events.intersects(PollFlags::IN | PollFlags::RDHUP),
        writable: broken || events.intersects(PollFlags::OUT),
        ended: broken || events.intersects(PollFlags::RDHUP),
    }
}

fn fd(file: &File) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

fn source_fd(source: &Source) -> types::Fd {
    types::Fd(source.as_fd().as_raw_fd())
}

/// A result as the system call would have told it.
pub(super) fn outcome(result: i32) -> io::Result<usize> {
    match usize::try_from(result) {
        Ok(count) => Ok(count),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}
