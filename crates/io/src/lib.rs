//! The only way Blockyard touches storage: [`Disk`] and [`Directory`].
//!
//! The engine is written once, async over these traits and without a runtime. On the blocking
//! implementation every future is ready at its first poll; on a ring it is ready when the
//! completion arrives; in the simulator, when the seed says so. Buffers are owned by the operation
//! while it is in flight, so no implementation can be handed memory that goes away.

mod breaks;
mod host;
mod ring;

pub use breaks::broken;
pub use host::{Fence, HostDirectory, HostDisk, HostOptions, MappedFile, PoolLock, boot_id};
/// Drives a future on the calling thread; on the blocking implementations it never sleeps.
pub use pollster::block_on;
pub use ring::{Notifier, Panicked, Readiness, Ring, Source, Tasks, WatchId, on_ring};

use blockyard_block::{Buffer, BufferMut};
use std::future::Future;
use std::io;

/// A file or block device. Offsets and lengths of engine I/O are multiples of 4096.
///
/// A dropped future of `write`, `allocate`, `punch` or `set_length` leaves any part of it done, and
/// nothing more of it happens after the drop: an implementation that cannot call its I/O back must
/// see to it that its futures are driven to their end.
pub trait Disk: Send + Sync + 'static {
    /// Fills the whole buffer; `UnexpectedEof` when the file ends before.
    fn read(
        &self,
        offset: u64,
        buffer: BufferMut,
    ) -> impl Future<Output = (io::Result<()>, BufferMut)>;

    /// Writes the whole buffer.
    fn write(&self, offset: u64, data: Buffer) -> impl Future<Output = io::Result<()>>;

    /// Everything written and completed before the call is durable when it returns (fdatasync).
    /// After an error the state of unsynced writes is unknown, for good; no sync that overlaps one
    /// that fails may succeed.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;

    /// Length in bytes.
    fn length(&self) -> impl Future<Output = io::Result<u64>>;

    /// Cuts or extends the file with zeros that take no space.
    fn set_length(&self, length: u64) -> impl Future<Output = io::Result<()>>;

    /// Takes space for the range so that writing to it cannot fail for lack of it; extends the file
    /// if needed. `StorageFull` when there is none. On a block device, checks the range only.
    fn allocate(&self, offset: u64, length: u64) -> impl Future<Output = io::Result<()>>;

    /// Gives the space of the range back; it reads zero afterwards (on a block device that does
    /// not promise zeros, anything). Errors of an unsupported punch are `Unsupported`.
    fn punch(&self, offset: u64, length: u64) -> impl Future<Output = io::Result<()>>;

    /// Bytes that files on the file system of this one may still take (statvfs f_bavail). Of a block
    /// device it says nothing.
    fn space_available(&self) -> impl Future<Output = io::Result<u64>>;

    /// Forgets cached clean pages so that the next read comes from the medium. Best effort.
    fn drop_cache(&self) -> impl Future<Output = io::Result<()>>;
}

/// The directory of a pool. Names are relative, at most one folder deep: `log`, `checkpoint/000012`.
pub trait Directory: Send + Sync + 'static {
    type Disk: Disk;

    /// Opens an existing file; `NotFound` otherwise.
    fn open(&self, name: &str) -> impl Future<Output = io::Result<Self::Disk>>;

    /// Makes a new file of length zero; `AlreadyExists` otherwise. The name is durable after `sync`.
    fn create(&self, name: &str) -> impl Future<Output = io::Result<Self::Disk>>;

    /// Names of the files in `folder` (without the folder), in any order; empty if there is none.
    fn list(&self, folder: &str) -> impl Future<Output = io::Result<Vec<String>>>;

    /// Opens a folder anew when it is used next. For one whose files may be removed by others, with it: as long as it is
    /// kept open, nothing can be made in what was removed (`NotFound`).
    fn forget_folder(&self, _folder: &str) {}

    /// Removes a file. Durable after `sync`.
    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// Makes all creations and removals so far durable.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;

    /// Bytes that files in this directory may still take (statvfs f_bavail).
    fn space_available(&self) -> impl Future<Output = io::Result<u64>>;
}

/// Memory that outlives the process but not the machine: the journal of acknowledged changes (I15).
///
/// Bytes changed through `bytes` are kept however the process ends; after a reboot the memory is
/// all zero or another boot's, and the engine ignores it.
pub trait Mapped: Send + 'static {
    fn bytes(&mut self) -> &mut [u8];
}
