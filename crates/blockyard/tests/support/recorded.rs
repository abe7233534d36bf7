//! Block devices of the host that record every write and flush and fail on demand: `blockyard-faulty`
//! serves them over NBD, nbdfuse makes a file of that and losetup a device. A pool lies on them, with
//! its data in a file of the file system or on a device of its own.

use super::history::Expected;
use super::host::{self, Fuse, Mount, text};
use super::loop_device::LoopDevice;
use super::pipelined::Plain;
use super::{Daemon, Place, has_program};
use blockyard_block::HashAlgorithm;
use blockyard_faulty::{Disk, Memory, Server, Timeline};
use blockyard_io::{HostDirectory, HostDisk, HostOptions, block_on};
use blockyard_pool::{CreateOptions, Pool, PoolId};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    fuse: Fuse,
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
        Some(Recorded { device, fuse, disk })
    }
}

impl Recorded {
    /// The next reads reach the disk: nothing is cached on the way.
    pub(crate) fn drop_cache(&self) {
        for file in [self.device.path.as_str(), text(&self.fuse.disk)] {
            host::run("dd", &[&format!("if={file}"), "iflag=nocache", "count=0", "status=none"]);
        }
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
        // Blocks of whole pages: of a write that FUSE splits, the loop driver of Linux 6.18 takes the first part's
        // success for the whole, and the file system never hears that the rest failed.
        host::run("mkfs.ext4", &["-q", "-b", "4096", "-J", "size=4", "-E", now, device]);
        let mount = Mount::new(device, place.path("mnt"), &[]);
        let pool = RecordedPool { mount, disks, timeline, data_on };
        make_small_pool(&pool.path(), pool.disks.get(1).map(|disk| disk.device.path.as_str()));
        Some(pool)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mount.folder.join("pool")
    }

    pub(crate) fn serve(&self, place: &Place) -> Daemon {
        serve(place, &self.path(), &[])
    }

    /// Where a file of the pool lies on the first disk.
    pub(crate) fn places_of(&self, file: &str) -> Vec<Range<u64>> {
        let path = self.path().join(file);
        let listed = host::run("filefrag", &["-e", "-b4096", text(&path)]);
        let number = |word: &str| word.trim().trim_end_matches("..").parse::<u64>().ok();
        let places: Vec<Range<u64>> = listed
            .lines()
            .filter_map(|line| {
                // `0: 0.. 15: 34816.. 34831: 16: last,eof`
                let fields: Vec<&str> = line.split(':').collect();
                number(fields.first()?)?;
                let (first, _) = fields.get(2)?.split_once("..")?;
                let (first, count) = (number(first)?, number(fields.get(3)?)?);
                Some(first * 4096..(first + count) * 4096)
            })
            .collect();
        assert!(!places.is_empty(), "{listed}");
        places
    }

    /// Everything durable so far is where each recording starts from.
    pub(crate) fn record(&self) -> Vec<Memory> {
        host::run("sync", &["-f", text(&self.mount.folder)]);
        self.disks.iter().map(|disk| disk.disk.record()).collect()
    }
}

/// Makes a pool with a small log, so that checkpoints come often.
pub(crate) fn make_small_pool(path: &Path, device: Option<&str>) {
    let options = HostOptions { direct: true, ..HostOptions::default() };
    let directory = HostDirectory::create(path, options.clone()).unwrap();
    let data = path.join("data");
    let data = match device {
        None => HostDisk::create(data, &options).unwrap(),
        Some(device) => {
            std::os::unix::fs::symlink(device, &data).unwrap();
            HostDisk::open(data, &options).unwrap()
        }
    };
    let mut id = [7; 16];
    id[..4].copy_from_slice(&std::process::id().to_le_bytes());
    id[4..12].copy_from_slice(&u64::to_le_bytes(NEXT_ID.fetch_add(1, Ordering::Relaxed)));
    let options = CreateOptions {
        id: PoolId(id),
        hash: HashAlgorithm::Blake3,
        log_segments: 4,
        log_segment_bytes: 64 << 10,
        data_on_device: data.is_block_device(),
        now_unix_s: 1,
    };
    block_on(Pool::create(&directory, &data, &options)).unwrap();
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

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
        Remains::prepared(disks, place, |_| {})
    }

    /// After errors of the disk, which may have broken the file system itself (its journal, once): what an
    /// administrator would do comes first.
    pub(crate) fn after_errors(disks: &[Memory], place: &Place) -> Remains {
        Remains::prepared(disks, place, |file_system| {
            let repaired = host::finish("e2fsck", &["-f", "-y", text(file_system)]);
            let code = repaired.status.code();
            assert!(code.is_some_and(|code| code <= 1), "{repaired:?}"); // 1: it was mended
        })
    }

    fn prepared(disks: &[Memory], place: &Place, prepare: impl Fn(&Path)) -> Remains {
        // In memory: nothing here needs to be durable.
        let folder = tempfile::Builder::new().prefix("blockyard-").tempdir_in("/dev/shm").unwrap();
        let file_system = folder.path().join("fs");
        disks[0].save(&file_system, FILE_SYSTEM_BYTES).unwrap();
        prepare(&file_system);
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

/// What a command about a pool with such sockets printed; it must succeed.
pub(crate) fn ask(place: &Place, daemon: &Daemon, arguments: &[&str]) -> String {
    let socket = daemon.api_socket();
    place.ok(&[arguments, &["--api", text(&socket), "--pool", text(&daemon.pool)]].concat())
}

/// The pool that a power cut left must be sound.
pub(crate) fn check_remains(place: &Place, remains: &Remains, words: &str) {
    let (pool, journal) = (remains.pool(), text(remains.journal_folder()));
    let mut arguments = vec!["check", "--data", text(&pool), "--journal-dir", journal];
    arguments.extend(remains.data().into_iter().flat_map(|data| ["--data-at", data]));
    let checked = place.run(&arguments);
    assert!(checked.status.success(), "{words}: {checked:?}");
}

/// An image must hold what its history allows.
pub(crate) fn compare(daemon: &Daemon, name: &str, expected: &Expected, size: u64, words: &str) {
    let mut client = Plain::open(daemon, name);
    for start in (0..size).step_by(1 << 20) {
        let bytes = start..(start + (1 << 20)).min(size);
        let found = client.read(bytes.clone());
        let compared = expected.compare(&bytes, &found);
        assert!(compared.is_ok(), "{words}: {name}: {}", compared.unwrap_err());
    }
}
