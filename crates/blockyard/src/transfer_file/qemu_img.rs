//! Formats that are read by the `qemu-img` program where it is installed.
//!
//! It writes the disk, sparse, into a file without a name in the pool's folder, which is then
//! imported as raw. The kernel takes such a file away with its last user, so nothing is left
//! however daemon or job end. Reading through `qemu-nbd` instead would save the copy, and would
//! need a client for NBD, a socket and a second program to be watched; these formats are rare.

use super::raw::RawSource;
use super::source::{Source, SourceOptions};
use blockyard_block::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often a running conversion is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What is kept of the program's messages.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// One file that `qemu-img` is to read.
pub(crate) struct Conversion<'a> {
    pub(crate) path: &'a Path,
    /// The format by QEMU's name.
    pub(crate) format: &'a str,
    /// Why it cannot be read in this process.
    pub(crate) cause: &'a str,
}

impl Conversion<'_> {
    /// The disk as a source. Ends the program if `cancelled` says so.
    pub(crate) fn run(
        &self,
        options: &SourceOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Box<dyn Source>> {
        let program = options.qemu_img.as_deref().ok_or_else(|| self.missing())?;
        let size = self.size(program)?;
        let target = unnamed_file(&options.temporary_folder)?;
        target.set_len(size).map_err(|error| Error::io("size of the temporary file", error))?;
        let child = self.start(program, &target)?;
        wait(child, cancelled)?.map_err(|message| self.failed(&message))?;
        Ok(Box::new(RawSource::new(target, size)))
    }

    /// The size of the disk, as the program tells it.
    fn size(&self, program: &Path) -> Result<u64> {
        let output = Command::new(program)
            .args(["info", "--output=json", "-f", self.format])
            .arg(self.path)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| self.not_started(error))?;
        if !output.status.success() {
            return Err(self.failed(&String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .ok()
            .and_then(|info| info.get("virtual-size")?.as_u64())
            .ok_or_else(|| self.failed("it does not tell the size of the disk"))
    }

    fn start(&self, program: &Path, target: &File) -> Result<Child> {
        // The program opens our file anew through /proc, as the file has no name.
        let target = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
        Command::new(program)
            .args(["convert", "-n", "--target-is-zero", "-W", "-S", "4k", "-O", "raw", "-f"])
            .arg(self.format)
            .args([self.path.as_os_str(), OsStr::new(&target)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.not_started(error))
    }

    fn not_started(&self, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound {
            return self.missing();
        }
        Error::io("start of qemu-img", error)
    }

    fn missing(&self) -> Error {
        let message = format!(
            "{} is read by the program qemu-img, which is not installed here \
             (Debian: apt install qemu-utils)",
            self.cause
        );
        Error::new(ErrorKind::Unsupported, message)
    }

    fn failed(&self, message: &str) -> Error {
        let message = format!("qemu-img cannot read the image: {}", message.trim());
        Error::new(ErrorKind::Corrupt, message)
    }
}

/// An empty file in `folder` that no name leads to.
pub(crate) fn unnamed_file(folder: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(|error| {
        Error::io(format_args!("temporary file in {}", folder.display()), error.into())
    })
}

/// Waits for the end of `child`: `Err` inside is what it had to say when it failed.
fn wait(mut child: Child, cancelled: &dyn Fn() -> bool) -> Result<Result<(), String>> {
    let messages = child.stderr.take().map(|pipe| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut start = pipe.take(MESSAGE_BYTES_MAX);
            // A broken pipe leaves what was said so far.
            let _ = start.read_to_end(&mut text);
            drain(start.into_inner());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let status = loop {
        match child.try_wait().map_err(|error| Error::io("wait for qemu-img", error))? {
            Some(status) => break status,
            None if cancelled() => {
                // It may have ended by itself just now; either way it is gone after the wait.
                let _ = child.kill();
                let _ = child.wait();
                let message = "cancelled while qemu-img was converting";
                return Err(Error::new(ErrorKind::ShutDown, message));
            }
            None => std::thread::sleep(POLL_INTERVAL),
        }
    };
    let said = messages.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(if status.success() { Ok(()) } else { Err(said) })
}

/// Reads the rest away so that the writer never blocks.
fn drain(mut pipe: impl Read) {
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
}
