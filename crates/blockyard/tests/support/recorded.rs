//! Block devices of the host that record every write and flush and fail on demand: `blockyard-faulty`
//! serves them over NBD, nbdfuse makes a file of that and losetup a device. A pool lies on them, with
//! its data in a file of the file system or on a device of its own.

use super::host::{self, Fuse, Mount, text};
use super::loop_device::LoopDevice;
use super::{Daemon, Place, has_program};
use blockyard_block::HashAlgorithm;
use blockyard_faulty::{Disk, Memory, Server, Timeline};
use blockyard_io::{HostDirectory, HostDisk, HostOptions, block_on};
use blockyard_pool::{CreateOptions, Pool, PoolId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE_SYSTEM_BYTES: u64 = 200 << 20;
const DATA_BYTES: u64 = 64 << 20;

/// Where the pool keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataOn {
    FileSystem,
    Device,
}

/// Whether this machine has what all this takes; skips the test if not.
pub(crate) fn can_record() -> bool {
    host::is_root() && ["nbdfuse", "losetup", "mkfs.ext4", "mount"].into_iter().all(has_program)
}

/// A device that records; its parts end in this order.
pub(crate) struct Recorded {
    pub(crate) device: LoopDevice,
    _fuse: Fuse,
    pub(crate) disk: Arc<Disk>,
}

impl Recorded {
    fn new(place: &Place, size: u64, number: usize, timeline: &Arc<Timeline>) -> Option<Recorded> {
        let disk = Disk::new(size, number, timeline);
        let socket = place.path(&format!("disk-{number}.sock"));
        Server::start(&disk, &socket).unwrap();
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let fuse = Fuse::of(&uri, place.path(&format!("fuse-{number}")));
        let device = LoopDevice::attach(&fuse.disk, &[])?;
        Some(Recorded { device, _fuse: fuse, disk })
    }
}

/// A pool on recorded devices. Dropped from the top down.
pub(crate) struct RecordedPool {
    pub(crate) mount: Mount,
    pub(crate) disks: Vec<Recorded>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) data_on: DataOn,
}

impl RecordedPool {
    /// Made with a small log, so that checkpoints come often.
    pub(crate) fn new(place: &Place, data_on: DataOn) -> Option<RecordedPool> {
        let timeline = Arc::<Timeline>::default();
        let mut disks = vec![Recorded::new(place, FILE_SYSTEM_BYTES, 0, &timeline)?];
        if data_on == DataOn::Device {
            disks.push(Recorded::new(place, DATA_BYTES, 1, &timeline)?);
        }
        let device = &disks[0].device.path;
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        host::run("mkfs.ext4", &["-q", "-J", "size=4", "-E", now, device]);
        let mount = Mount::new(device, place.path("mnt"), &[]);
        let pool = RecordedPool { mount, disks, timeline, data_on };
        pool.make();
        Some(pool)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mount.folder.join("pool")
    }

    fn make(&self) {
        let path = self.path();
        let options = HostOptions { direct: true, ..HostOptions::default() };
        let directory = HostDirectory::create(&path, options.clone()).unwrap();
        let data = path.join("data");
        let data = match self.data_on {
            DataOn::FileSystem => HostDisk::create(data, &options).unwrap(),
            DataOn::Device => {
                std::os::unix::fs::symlink(&self.disks[1].device.path, &data).unwrap();
                HostDisk::open(data, &options).unwrap()
            }
        };
        let options = CreateOptions {
            id: PoolId([7; 16]),
            hash: HashAlgorithm::Blake3,
            log_segments: 4,
            log_segment_bytes: 64 << 10,
            data_on_device: data.is_block_device(),
            now_unix_s: 1,
        };
        block_on(Pool::create(&directory, &data, &options)).unwrap();
    }

    pub(crate) fn serve(&self, place: &Place) -> Daemon {
        serve(place, &self.path(), &[])
    }

    /// Everything durable so far is where each recording starts from.
    pub(crate) fn record(&self) -> Vec<Memory> {
        host::run("sync", &["-f", text(&self.mount.folder)]);
        self.disks.iter().map(|disk| disk.disk.record()).collect()
    }
}

/// A daemon whose sockets are beside the file system, not in it.
fn serve(place: &Place, pool: &Path, flags: &[&str]) -> Daemon {
    let mut command = place.command();
    let sockets = [("--nbd-socket", "n.sock"), ("--api-socket", "a.sock")];
    command.arg("serve").arg("--pool").arg(pool);
    for (flag, name) in sockets {
        command.arg(flag).arg(place.path(name));
    }
    command.args(flags);
    let mut daemon = Daemon::start(command, pool, &place.path("daemon.log"));
    daemon.sockets = Some(place.path(""));
    daemon
}

/// What a power cut left, on devices of its own.
pub(crate) struct Remains {
    pub(crate) mount: Mount,
    data: Option<LoopDevice>,
    folder: tempfile::TempDir,
}

impl Remains {
    pub(crate) fn of(disks: &[Memory], place: &Place) -> Remains {
        // In memory: nothing here needs to be durable.
        let folder = tempfile::Builder::new().prefix("blockyard-").tempdir_in("/dev/shm").unwrap();
        let file_system = folder.path().join("fs");
        disks[0].save(&file_system, FILE_SYSTEM_BYTES).unwrap();
        let data = disks.get(1).map(|disk| {
            let file = folder.path().join("data");
            disk.save(&file, DATA_BYTES).unwrap();
            LoopDevice::attach(&file, &[]).unwrap()
        });
        let mount = Mount::new(text(&file_system), place.path("remains"), &["-o", "loop"]);
        Remains { mount, data, folder }
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.mount.folder.join("pool")
    }

    /// A folder for its journal.
    pub(crate) fn journal_folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> Option<&str> {
        self.data.as_ref().map(|device| device.path.as_str())
    }

    pub(crate) fn serve(&self, place: &Place) -> Daemon {
        // With a journal of its own: a power cut leaves none, and the remains before had one.
        let mut flags = vec!["--journal-dir", text(self.journal_folder())];
        flags.extend(self.data().into_iter().flat_map(|data| ["--data", data]));
        serve(place, &self.pool(), &flags)
    }
}
