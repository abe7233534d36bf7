//! How the programs of others are started.

use super::{Mode, Programs};
use crate::Result;
use crate::process::Process;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Connections that each server must take at once.
const CONNECTIONS: &str = "32";

pub(super) fn qemu_nbd(
    programs: &Programs,
    mode: Mode,
    format: &str,
    file: &Path,
    socket: &Path,
) -> Command {
    let mut command = Command::new(programs.qemu("qemu-nbd"));
    command.args(["-f", format, "-t", "-e", CONNECTIONS, "-x", "disk", "--discard=unmap"]);
    // Of its three ways io_uring costs it the least, cached and not.
    command.args([
        "--aio=io_uring",
        if mode == Mode::Direct { "--cache=none" } else { "--cache=writeback" },
    ]);
    command.arg("-k").arg(socket).arg(file);
    command
}

pub(super) fn storage_daemon(
    programs: &Programs,
    mode: Mode,
    file: &Path,
    socket: &Path,
) -> Command {
    let direct = if mode == Mode::Direct { "on" } else { "off" };
    let mut command = Command::new(programs.qemu("qemu-storage-daemon"));
    let disk = format!(
        "driver=file,node-name=disk,filename={},cache.direct={direct},aio=io_uring,discard=unmap,locking=off",
        file.display()
    );
    let server = format!("addr.type=unix,addr.path={},max-connections=32", socket.display());
    command.args(["--blockdev", &disk, "--nbd-server", &server]);
    command.args(["--export", "type=nbd,id=e,node-name=disk,name=disk,writable=on"]);
    command
}

pub(super) fn nbdkit(file: &Path, socket: &Path) -> Command {
    let mut command = Command::new("nbdkit");
    command
        .args(["--foreground", "--exportname", "disk", "--unix"])
        .arg(socket)
        .arg("file")
        .arg(file);
    command
}

/// It detaches itself, and a child serves each connection.
pub(super) fn nbd_server(folder: &Path, file: &Path, socket: &Path, log: &Path) -> Result<Process> {
    let config = folder.join("nbd-server.config");
    let number = folder.join("nbd-server.pid");
    let (file, socket) = (file.display(), socket.display());
    // It listens on TCP whether one wants it or not.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    fs::write(
        &config,
        format!(
            "[generic]\nunixsock = {socket}\nlistenaddr = 127.0.0.1\nport = {port}\n\
             [disk]\nexportname = {file}\nflush = true\ntrim = true\n"
        ),
    )?;
    let _ = fs::remove_file(&number);
    let mut command = Command::new("nbd-server");
    command.arg("-C").arg(&config).arg("-p").arg(&number);
    let mut starter = Process::start(command, log)?;
    crate::process::wait_for("nbd-server to detach itself", || starter.ended())?;
    Process::detached(&number)
}
