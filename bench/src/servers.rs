//! The servers that are compared, and how each is started: with what its manual advises for speed.

mod peers;

use crate::Result;
use crate::client::{self, Address, Load, Operation, Pattern};
use crate::process::{Process, wait_for};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// fio, or a few lines of our own, on the file itself: what can be had at all.
    Raw,
    /// Our own server over the file, with no engine.
    NoEngine,
    Blockyard,
    QemuNbd,
    QemuNbdQcow2,
    StorageDaemon,
    Nbdkit,
    NbdServer,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Raw => "the raw file",
            Kind::NoEngine => "our loop, no engine",
            Kind::Blockyard => "Blockyard",
            Kind::QemuNbd => "qemu-nbd, raw",
            Kind::QemuNbdQcow2 => "qemu-nbd, qcow2",
            Kind::StorageDaemon => "qemu-storage-daemon, raw",
            Kind::Nbdkit => "nbdkit file",
            Kind::NbdServer => "nbd-server",
        }
    }

    /// Whether it can go past the page cache.
    pub(crate) fn knows_direct(self) -> bool {
        !matches!(self, Kind::Nbdkit | Kind::NbdServer)
    }

    fn file_name(self) -> &'static str {
        match self {
            Kind::Blockyard => "pool",
            Kind::QemuNbdQcow2 => "qcow2",
            Kind::Raw => "raw-itself",
            // One at a time works on it, and all find the same blocks.
            _ => "raw",
        }
    }
}

/// How data reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    Direct,
    Cached,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Direct => "O_DIRECT",
            Mode::Cached => "cached",
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// Of this repository: blockyard.
    pub(crate) ours: PathBuf,
    /// Of this repository: the examples.
    pub(crate) examples: PathBuf,
    /// QEMU's, if not those of PATH.
    pub(crate) qemu: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn qemu(&self, name: &str) -> PathBuf {
        self.qemu.as_ref().map_or_else(|| name.into(), |folder| folder.join(name))
    }

    pub(crate) fn blockyard(&self) -> PathBuf {
        self.ours.join("blockyard")
    }
}

/// A folder with the files that servers work on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) programs: Programs,
    /// Of the image.
    pub(crate) size: u64,
}

/// A server that runs, with the export `disk` of it.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) address: Address,
}

impl Place {
    pub(crate) fn path_of(&self, kind: Kind) -> PathBuf {
        self.folder.join(kind.file_name())
    }

    /// Starts `kind` over its files in this place, which are made, empty, if they are not there.
    pub(crate) fn start(&self, kind: Kind, mode: Mode) -> Result<Server> {
        let path = self.path_of(kind);
        if !path.exists() {
            self.make_empty(kind, &path)?;
        }
        let socket = self.folder.join(format!("{kind:?}-{mode:?}.sock"));
        let log = self.folder.join(format!("{kind:?}-{mode:?}.log"));
        let process = match kind {
            Kind::Blockyard => self.start_blockyard(mode, &path, &socket, &log)?,
            Kind::NoEngine => self.start_no_engine(mode, &path, &socket, &log)?,
            Kind::NbdServer => peers::nbd_server(&self.folder, &path, &socket, &log)?,
            _ => {
                let command = match kind {
                    Kind::QemuNbd => peers::qemu_nbd(&self.programs, mode, "raw", &path, &socket),
                    Kind::QemuNbdQcow2 => {
                        peers::qemu_nbd(&self.programs, mode, "qcow2", &path, &socket)
                    }
                    Kind::StorageDaemon => {
                        peers::storage_daemon(&self.programs, mode, &path, &socket)
                    }
                    Kind::Nbdkit => peers::nbdkit(&path, &socket),
                    _ => return Err(format!("{} is no server", kind.name()).into()),
                };
                Process::start(command, &log)?
            }
        };
        let address = Address { socket, export: "disk".to_owned() };
        let mut server = Server { kind, process, address };
        server.wait_until_it_serves(&log)?;
        Ok(server)
    }

    fn make_empty(&self, kind: Kind, path: &Path) -> Result<()> {
        match kind {
            Kind::Blockyard => Ok(std::fs::create_dir(path)?),
            Kind::QemuNbdQcow2 => {
                let mut command = Command::new(self.programs.qemu("qemu-img"));
                command.args(["create", "-q", "-f", "qcow2"]).arg(path);
                must(command.arg(self.size.to_string()))
            }
            _ => Ok(std::fs::File::create_new(path)?.set_len(self.size)?),
        }
    }

    fn start_blockyard(
        &self,
        mode: Mode,
        pool: &Path,
        socket: &Path,
        log: &Path,
    ) -> Result<Process> {
        let mut command = Command::new(self.programs.blockyard());
        let io = match mode {
            Mode::Direct => "direct",
            Mode::Cached => "buffered",
        };
        command.args(["serve", "--io", io, "--pool"]).arg(pool).arg("--nbd-socket").arg(socket);
        let mut process = Process::start(command, log)?;
        wait_until_ready(&mut process, log)?;
        let mut list = Command::new(self.programs.blockyard());
        let list = list.arg("--pool").arg(pool).args(["image", "info", "disk"]).output()?;
        if !list.status.success() {
            let mut create = Command::new(self.programs.blockyard());
            create.arg("--pool").arg(pool).args(["image", "create", "disk"]);
            must(create.arg(self.size.to_string()))?;
        }
        Ok(process)
    }

    fn start_no_engine(
        &self,
        mode: Mode,
        file: &Path,
        socket: &Path,
        log: &Path,
    ) -> Result<Process> {
        let mut command = Command::new(self.programs.examples.join("nbd-file"));
        command.arg("--socket").arg(socket).arg("--file").arg(file);
        if mode == Mode::Direct {
            command.arg("--direct");
        }
        let mut process = Process::start(command, log)?;
        wait_until_ready(&mut process, log)?;
        Ok(process)
    }
}

impl Server {
    fn wait_until_it_serves(&mut self, log: &Path) -> Result<()> {
        let mut ended = false;
        wait_for("a server's socket", || {
            ended = self.process.ended();
            ended || std::os::unix::net::UnixStream::connect(&self.address.socket).is_ok()
        })?;
        if ended { Err(said(self.kind.name(), log)) } else { Ok(()) }
    }

    /// Writes all of the export once, each cluster with its stamp, and flushes.
    pub(crate) fn fill(&self, seed: u64, span: Option<u64>) -> Result<()> {
        let mut load = Load::new(Operation::Write, Pattern::Through, 1 << 20, 8).seeded(seed);
        load.span = span;
        self.load(&load)
    }

    /// Reads all of the export once, so that what can be cached is.
    pub(crate) fn warm(&self) -> Result<()> {
        self.load(&Load::new(Operation::Read, Pattern::Through, 1 << 20, 4))
    }

    /// Ends it as a crash does.
    pub(crate) fn crash(&self) {
        self.process.crash();
    }

    pub(crate) fn load(&self, load: &Load) -> Result<()> {
        client::run(&self.address, load, || Ok(()))
            .map_err(|error| format!("{}: {error}", self.kind.name()))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket left behind keeps the next server from binding it.
        let _ = std::fs::remove_file(&self.address.socket);
    }
}

fn wait_until_ready(process: &mut Process, log: &Path) -> Result<()> {
    let mut ended = false;
    wait_for("a server to be ready", || {
        ended = process.ended();
        let said = std::fs::read_to_string(log).unwrap_or_default();
        ended || said.lines().any(|line| line.starts_with("ready"))
    })?;
    if ended { Err(said("the server", log)) } else { Ok(()) }
}

fn said(who: &str, log: &Path) -> crate::Error {
    let words = std::fs::read_to_string(log).unwrap_or_default();
    format!("{who} has ended: {}", words.trim()).into()
}

/// Runs a command that must succeed.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}", words.trim()).into());
    }
    Ok(())
}
