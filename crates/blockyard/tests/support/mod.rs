//! For tests with the real program: a pool in a folder of its own, daemons that never outlive their
//! test, and commands whose answers are checked.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub(crate) mod allocation;
pub(crate) mod content;
pub(crate) mod guest;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod loop_device;
pub(crate) mod model;
pub(crate) mod peers;
pub(crate) mod pipelined;
pub(crate) mod recorded;
pub(crate) mod traffic;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; a healthy one needs a hundredth.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_blockyard");

/// A folder for one pool (or several) which goes away with the test.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        // Paths of sockets are short: /tmp, whatever TMPDIR says.
        let folder = tempfile::Builder::new().prefix("blockyard-").tempdir_in("/tmp").unwrap();
        Place { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the pool is unless the test wants several.
    pub(crate) fn pool(&self) -> PathBuf {
        self.path("pool")
    }

    /// The program with an environment in which nothing is configured.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars_os() {
            // The break of `cargo xtask break-invariants --real` is what is being tested.
            if name.to_string_lossy().starts_with("BLOCKYARD_") && name != "BLOCKYARD_BREAK" {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.folder.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("share"))
            .env("BLOCKYARD_JOURNAL_DIR", self.folder.path())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// A daemon for `pool()` that is ready.
    pub(crate) fn serve(&self, flags: &[&str]) -> Daemon {
        self.serve_pool(&self.pool(), flags)
    }

    /// A daemon for any pool that is ready.
    pub(crate) fn serve_pool(&self, pool: &Path, flags: &[&str]) -> Daemon {
        let mut command = self.command();
        command.arg("serve").arg("--pool").arg(pool).args(flags);
        Daemon::start(command, pool, &self.path("daemon.log"))
    }

    /// A command, about `pool()` unless it names another, and what came of it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command();
        if !arguments.contains(&"--pool") {
            command.arg("--pool").arg(self.pool());
        }
        Finished::of_command(command.args(arguments))
    }

    /// What a command that must succeed printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// What a command that must succeed printed with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// Waits until every cluster has been hashed again after a crash; digests need that.
    pub(crate) fn wait_until_trusted(&self) {
        eventually("trusted hashes", || self.json(&["pool", "status"])["clusters_untrusted"] == 0);
    }

    /// What a command that must fail with `code` said about it.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let finished = self.run(arguments);
        assert_eq!(finished.status.code(), Some(code), "{arguments:?}: {finished:?}");
        assert_eq!(finished.out, "", "a failure prints no data");
        finished.err
    }
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Finished {
    pub(crate) fn of(mut command: Command) -> Finished {
        Finished::of_command(&mut command)
    }

    fn of_command(command: &mut Command) -> Finished {
        let output = command.output().unwrap();
        Finished {
            status: output.status,
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed; it must have succeeded.
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }
}

/// A running daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) pool: PathBuf,
    /// The line it printed when it was ready.
    pub(crate) ready: String,
    log: PathBuf,
    /// The folder of `n.sock` and `a.sock`, if the sockets are not in the pool.
    pub(crate) sockets: Option<PathBuf>,
}

impl Daemon {
    /// Starts `command`, which must print `ready` within a minute.
    pub(crate) fn start(mut command: Command, pool: &Path, log: &Path) -> Daemon {
        let errors = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let (pool, log) = (pool.to_owned(), log.to_owned());
        let mut daemon = Daemon { child, pool, ready: String::new(), log, sockets: None };
        let out = daemon.child.stdout.take().unwrap();
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line); // the test has heard enough
            }
        });
        let first = ready.recv_timeout(PATIENCE);
        daemon.ready = first.unwrap_or_else(|_| panic!("not ready; its log: {}", daemon.log()));
        assert!(daemon.ready.starts_with("ready"), "{}", daemon.ready);
        daemon
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn nbd_socket(&self) -> PathBuf {
        let apart = self.sockets.as_ref().map(|folder| folder.join("n.sock"));
        apart.unwrap_or_else(|| self.pool.join("nbd.sock"))
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        let apart = self.sockets.as_ref().map(|folder| folder.join("a.sock"));
        apart.unwrap_or_else(|| self.pool.join("api.sock"))
    }

    /// What all daemons of this place have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM and waits until the daemon has closed the pool in order.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}; its log: {}", self.log());
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not end; its log: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends bytes to the control socket and returns everything that comes back.
    pub(crate) fn http(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.api_socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(request); // it may be refused before it is read
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // a reset after the answer is all right
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// An NBD client of the smallest kind: opens an export and holds it until dropped.
pub(crate) struct NbdClient {
    stream: UnixStream,
}

impl NbdClient {
    pub(crate) fn open(daemon: &Daemon, name: &str) -> NbdClient {
        NbdClient::open_at(&daemon.nbd_socket(), name)
    }

    pub(crate) fn open_at(socket: &Path, name: &str) -> NbdClient {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        let mut option = 3_u32.to_be_bytes().to_vec(); // fixed newstyle, no zeroes
        option.extend(b"IHAVEOPT");
        option.extend(7_u32.to_be_bytes()); // GO
        option.extend((name.len() as u32 + 6).to_be_bytes());
        option.extend((name.len() as u32).to_be_bytes());
        option.extend(name.as_bytes());
        option.extend(0_u16.to_be_bytes());
        stream.write_all(&option).unwrap();
        loop {
            let mut reply = [0; 20];
            stream.read_exact(&mut reply).unwrap();
            let number = |range| u32::from_be_bytes(<[u8; 4]>::try_from(&reply[range]).unwrap());
            let (kind, length) = (number(12..16), number(16..20));
            stream.read_exact(&mut vec![0; length as usize]).unwrap();
            assert!(kind < 1 << 31, "the export {name} was refused with {kind:#x}");
            if kind == 1 {
                return NbdClient { stream };
            }
        }
    }

    /// Sends bytes, whatever they mean.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The cookie and error code of the next simple reply, if one comes.
    pub(crate) fn reply(&mut self) -> Option<(u64, u32)> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).ok()?;
        let (head, cookie) = reply.split_at(8);
        let code = u32::from_be_bytes(head[4..].try_into().ok()?);
        Some((u64::from_be_bytes(cookie.try_into().ok()?), code))
    }

    /// Writes `data` and waits for the reply; true if it was written.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0, 0, 0, 1]); // no flags, WRITE
        request.extend(77_u64.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend((data.len() as u32).to_be_bytes());
        request.extend(data);
        let mut reply = [0; 16];
        self.stream.write_all(&request).is_ok()
            && self.stream.read_exact(&mut reply).is_ok()
            && reply[4..8] == [0; 4]
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says that a test was skipped and why. In CI that is a failure.
pub(crate) fn skip(reason: &str) {
    blockyard_testing::skip(reason);
}

/// Whether a program can be run; says so if not.
pub(crate) fn has_program(name: &str) -> bool {
    blockyard_testing::have_programs(&[name])
}
