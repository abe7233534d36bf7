//! One operation on its way: a request, its effect at a random moment, its answer at another.

use crate::fault::OperationKind;
use crate::names::FileId;
use crate::world::World;
use blockyard_block::{Buffer, BufferMut};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

#[derive(Debug)]
pub(crate) enum Request {
    Read { file: FileId, offset: u64, buffer: BufferMut },
    Write { file: FileId, offset: u64, data: Buffer },
    Sync { file: FileId, sync_point: u64 },
    Length { file: FileId },
    SetLength { file: FileId, length: u64 },
    Allocate { file: FileId, offset: u64, length: u64 },
    Punch { file: FileId, offset: u64, length: u64 },
    DropCache { file: FileId },
    Open { name: String },
    Create { name: String },
    List { folder: String },
    Remove { name: String },
    SyncDirectory { sync_point: usize },
    SpaceAvailable,
}

impl Request {
    pub(crate) fn kind(&self) -> OperationKind {
        match self {
            Request::Read { .. } => OperationKind::Read,
            Request::Write { .. } => OperationKind::Write,
            Request::Sync { .. } => OperationKind::Sync,
            Request::Length { .. } => OperationKind::Length,
            Request::SetLength { .. } => OperationKind::SetLength,
            Request::Allocate { .. } => OperationKind::Allocate,
            Request::Punch { .. } => OperationKind::Punch,
            Request::DropCache { .. } => OperationKind::DropCache,
            Request::Open { .. } => OperationKind::Open,
            Request::Create { .. } => OperationKind::Create,
            Request::List { .. } => OperationKind::List,
            Request::Remove { .. } => OperationKind::Remove,
            Request::SyncDirectory { .. } => OperationKind::SyncDirectory,
            Request::SpaceAvailable => OperationKind::SpaceAvailable,
        }
    }

    /// The file a sync is of.
    pub(crate) fn synced_file(&self) -> Option<FileId> {
        match self {
            Request::Sync { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// The file an operation of an open disk is for.
    pub(crate) fn file(&self) -> Option<FileId> {
        match self {
            Request::Read { file, .. }
            | Request::Write { file, .. }
            | Request::Sync { file, .. }
            | Request::Length { file }
            | Request::SetLength { file, .. }
            | Request::Allocate { file, .. }
            | Request::Punch { file, .. }
            | Request::DropCache { file } => Some(*file),
            _ => None,
        }
    }
}

/// What an operation answers when it succeeds.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    /// A change that syncs must cover once this answer was seen.
    Changed(FileId, u64),
    Number(u64),
    File(FileId),
    Names(Vec<String>),
}

/// An answer, with the buffer of a read given back.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: io::Result<Answer>,
    pub(crate) buffer: Option<BufferMut>,
    /// A change that failed, and the number of what it left visible: a sync after the engine has
    /// seen the failure covers that, too.
    pub(crate) failed_change: Option<(FileId, u64)>,
}

impl Outcome {
    pub(crate) fn failed(error: io::Error) -> Outcome {
        Outcome { result: Err(error), buffer: None, failed_change: None }
    }
}

pub(crate) type SharedWorld = Arc<Mutex<World>>;

pub(crate) fn lock(world: &SharedWorld) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

enum State {
    New(Request),
    Submitted(u64),
    Finished,
}

/// The future of one operation; dropped while in flight, any part of it is done at once.
pub(crate) struct Operation {
    world: SharedWorld,
    process: u64,
    state: State,
}

impl Operation {
    pub(crate) fn new(world: &SharedWorld, process: u64, request: Request) -> Operation {
        Operation { world: Arc::clone(world), process, state: State::New(request) }
    }
}

impl Future for Operation {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let shared = Arc::clone(&self.world);
        let mut world = lock(&shared);
        match std::mem::replace(&mut self.state, State::Finished) {
            State::New(request) => {
                let id = world.submit(self.process, request, context.waker().clone());
                self.state = State::Submitted(id);
                Poll::Pending
            }
            State::Submitted(id) => match world.take_finished(id) {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    world.wait_again(id, context.waker());
                    self.state = State::Submitted(id);
                    Poll::Pending
                }
            },
            State::Finished => panic!("a simulated operation was polled after it was ready"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let State::Submitted(id) = self.state {
            lock(&self.world).abandon(id);
        }
    }
}
