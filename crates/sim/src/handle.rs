//! What the engine holds of the world: [`SimDirectory`], [`SimDisk`] and [`SimMapped`].
//!
//! A handle belongs to the process that got it; after a crash its operations fail.

use crate::names::FileId;
use crate::operation::{Answer, Operation, Outcome, Request, SharedWorld, lock};
use blockyard_block::{Buffer, BufferMut};
use blockyard_io::{Directory, Disk, Mapped};
use std::io;
use std::sync::Arc;

/// The pool's directory.
#[derive(Clone)]
pub struct SimDirectory {
    world: SharedWorld,
    process: u64,
}

/// An open file.
#[derive(Clone)]
pub struct SimDisk {
    world: SharedWorld,
    process: u64,
    file: FileId,
}

impl SimDirectory {
    pub(crate) fn new(world: &SharedWorld, process: u64) -> SimDirectory {
        SimDirectory { world: Arc::clone(world), process }
    }

    async fn ask(&self, request: Request) -> io::Result<Answer> {
        Operation::new(&self.world, self.process, request).await.result
    }

    async fn ask_for_file(&self, request: Request) -> io::Result<SimDisk> {
        match self.ask(request).await? {
            Answer::File(file) => {
                Ok(SimDisk { world: Arc::clone(&self.world), process: self.process, file })
            }
            answer => unexpected(&answer),
        }
    }
}

fn unexpected(answer: &Answer) -> ! {
    panic!("the simulated world gave an answer of another request: {answer:?}")
}

impl Directory for SimDirectory {
    type Disk = SimDisk;

    async fn open(&self, name: &str) -> io::Result<SimDisk> {
        self.ask_for_file(Request::Open { name: name.to_owned() }).await
    }

    async fn create(&self, name: &str) -> io::Result<SimDisk> {
        self.ask_for_file(Request::Create { name: name.to_owned() }).await
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        match self.ask(Request::List { folder: folder.to_owned() }).await? {
            Answer::Names(names) => Ok(names),
            answer => unexpected(&answer),
        }
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.ask(Request::Remove { name: name.to_owned() }).await.map(drop)
    }

    async fn sync(&self) -> io::Result<()> {
        self.ask(Request::SyncDirectory { sync_point: 0 }).await.map(drop)
    }

    async fn space_available(&self) -> io::Result<u64> {
        match self.ask(Request::SpaceAvailable).await? {
            Answer::Number(bytes) => Ok(bytes),
            answer => unexpected(&answer),
        }
    }
}

impl SimDisk {
    async fn ask(&self, request: Request) -> Outcome {
        Operation::new(&self.world, self.process, request).await
    }

    async fn ask_done(&self, request: Request) -> io::Result<()> {
        self.ask(request).await.result.map(drop)
    }
}

impl Disk for SimDisk {
    async fn read(&self, offset: u64, buffer: BufferMut) -> (io::Result<()>, BufferMut) {
        let outcome = self.ask(Request::Read { file: self.file, offset, buffer }).await;
        let buffer = outcome.buffer.unwrap_or_else(|| BufferMut::zeroed(0));
        (outcome.result.map(drop), buffer)
    }

    async fn write(&self, offset: u64, data: Buffer) -> io::Result<()> {
        self.ask_done(Request::Write { file: self.file, offset, data }).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.ask_done(Request::Sync { file: self.file, sync_point: 0 }).await
    }

    async fn length(&self) -> io::Result<u64> {
        match self.ask(Request::Length { file: self.file }).await.result? {
            Answer::Number(length) => Ok(length),
            answer => unexpected(&answer),
        }
    }

    async fn set_length(&self, length: u64) -> io::Result<()> {
        self.ask_done(Request::SetLength { file: self.file, length }).await
    }

    async fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.ask_done(Request::Allocate { file: self.file, offset, length }).await
    }

    async fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.ask_done(Request::Punch { file: self.file, offset, length }).await
    }

    async fn space_available(&self) -> io::Result<u64> {
        match self.ask(Request::SpaceAvailable).await.result? {
            Answer::Number(bytes) => Ok(bytes),
            answer => unexpected(&answer),
        }
    }

    async fn drop_cache(&self) -> io::Result<()> {
        self.ask_done(Request::DropCache { file: self.file }).await
    }
}

/// The journal memory; see [`crate::SimWorld::mapped`]. Once the process is dead nothing it does to
/// the memory counts: no destructor runs after a SIGKILL.
pub struct SimMapped {
    world: SharedWorld,
    process: u64,
    boot: u64,
    memory: Vec<u8>,
    after_death: Vec<u8>,
}

impl SimMapped {
    pub(crate) fn new(world: &SharedWorld, process: u64, boot: u64, memory: Vec<u8>) -> SimMapped {
        SimMapped { world: Arc::clone(world), process, boot, memory, after_death: Vec::new() }
    }
}

impl Mapped for SimMapped {
    fn bytes(&mut self) -> &mut [u8] {
        if lock(&self.world).is_running(self.process) {
            return &mut self.memory;
        }
        self.after_death.clone_from(&self.memory);
        &mut self.after_death
    }
}

impl Drop for SimMapped {
    fn drop(&mut self) {
        lock(&self.world).keep_mapped(self.boot, std::mem::take(&mut self.memory));
    }
}
