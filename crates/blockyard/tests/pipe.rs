//! Transfers through a command: what crosses, what a user sees of commands that fail, and what is left. In place of ssh a
//! local one, but for one test; there ssh starts its server itself, so that nothing listens and nothing is left running.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::Random;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use support::{Daemon, PROGRAM, Place};

const MIB: u64 = 1 << 20;
const SSHD: &str = "/usr/sbin/sshd";
/// Whose existence sshd insists on when root starts it.
const SSHD_EMPTY: &str = "/run/sshd";

struct Host {
    place: Place,
    daemon: Daemon,
}

impl Host {
    /// No peer can reach it.
    fn new() -> Host {
        let place = Place::new();
        let daemon = place.serve(&[]);
        Host { place, daemon }
    }

    fn import(&self, name: &str, seed: u64, mib: u64) {
        let mut random = Random::new(seed);
        let mut bytes = vec![0; (mib * MIB) as usize];
        bytes.chunks_mut(8).for_each(|eight| {
            eight.copy_from_slice(&random.below(u64::MAX).to_le_bytes());
        });
        let file = self.place.path("import.img");
        fs::write(&file, bytes).unwrap();
        self.place.ok(&["image", "import", file.to_str().unwrap(), name]);
    }

    fn digest(&self, name: &str) -> String {
        let line = self.place.ok(&["image", "digest", name]);
        line.split_whitespace().next().unwrap().to_owned()
    }

    fn images(&self) -> usize {
        self.place.json(&["image", "list"])["images"].as_array().unwrap().len()
    }

    fn bytes_physical(&self) -> u64 {
        self.place.json(&["pool", "status"])["bytes_physical"].as_u64().unwrap()
    }

    /// What reaches this host in place of `ssh host`; `before` is a command in front.
    fn via(&self, before: &str) -> String {
        let programs = Path::new(PROGRAM).parent().unwrap().display();
        let api = self.daemon.api_socket();
        format!("{before} env BLOCKYARD_API={} 'PATH={programs}:/usr/bin:/bin'", api.display())
    }

    fn end(self) {
        self.daemon.stop();
        self.place.ok(&["check", "--data", self.place.pool().to_str().unwrap()]);
    }
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}"))
}

/// An executable of this text.
fn script(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A command that passes so many bytes on, each as soon as it comes.
fn first(bytes: u64) -> String {
    format!("dd bs=4096 count={bytes} iflag=count_bytes status=none")
}

fn spawn(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.place.command();
    command.arg("--pool").arg(host.place.pool()).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_image_is_pushed_quoted_and_pulled_through_a_command() {
    let (a, b) = (Host::new(), Host::new());
    a.import("web", 1, 16);
    let via = b.via("");
    let quote = a.place.json(&["quote", "web", "--via", &via]);
    assert_eq!(number(&quote, "bytes_missing"), 16 * MIB, "{quote}");
    assert_eq!(b.images(), 0);
    let pushed = a.place.json(&["push", "web", "--via", &via]);
    assert_eq!(number(&pushed, "bytes_missing"), 16 * MIB, "{pushed}");
    assert_eq!(a.digest("web"), b.digest("web"));
    // It may have been cut off before its last word: the same again is no error, and costs nothing.
    let again = a.place.json(&["push", "web", "--via", &via]);
    assert!(number(&again, "bytes_sent") < 65536, "{again}");
    let other = a.place.json(&["push", "web", "other", "--via", &via]);
    assert_eq!(number(&other, "bytes_missing"), 0, "{other}");
    assert_eq!(a.digest("web"), b.digest("other"));

    b.import("mine", 2, 8);
    let quote = a.place.json(&["quote", "mine", "--pull", "--via", &via, "--rate", "1M"]);
    assert_eq!((number(&quote, "bytes_missing"), number(&quote, "seconds_at_rate")), (8 * MIB, 8));
    let said = a.place.ok(&["pull", "mine", "theirs", "--via", &via]);
    assert!(said.contains("pulled mine"), "{said}");
    assert_eq!(a.digest("theirs"), b.digest("mine"));
    // Another content of that name is refused, and what receives does not send.
    let taken = a.place.fails(4, &["push", "theirs", "web", "--via", &via]);
    assert!(taken.contains("already"), "{taken}");
    let fixed = script(
        &a.place,
        "fixed",
        &format!("exec {} blockyard receive --images 'web*'", b.via("")), // as in authorized_keys
    );
    let denied = a.place.fails(5, &["pull", "web", "again", "--via", &fixed]);
    assert!(denied.contains("may not pull"), "{denied}");
    let denied = a.place.fails(5, &["push", "theirs", "--via", &fixed]);
    assert!(denied.contains("--images"), "{denied}");
    a.place.ok(&["push", "theirs", "web2", "--via", &fixed]);
    assert_eq!((a.images(), b.images()), (2, 4));
    a.end();
    b.end();
}

#[test]
fn what_is_wrong_with_the_command_is_told() {
    let (a, b) = (Host::new(), Host::new());
    a.import("web", 3, 1);
    let push = |code, via: &str| a.place.fails(code, &["push", "web", "--via", via]);
    let missing = push(3, "no-such-program host");
    assert!(missing.contains("no-such-program host blockyard receive"), "{missing}");
    assert!(push(5, "/etc/passwd").contains("not executable"));
    let dies = push(1, &script(&a.place, "dies", "echo no route to host >&2; exit 255"));
    assert!(dies.contains("no route to host") && dies.contains("255"), "{dies}");
    assert!(push(2, "ssh 'host").contains("not closed"));
    assert!(push(2, " ").contains("--via"));
    let banner =
        script(&a.place, "banner", &format!("echo Welcome home; exec {} \"$@\"", b.via("")));
    let banner = push(9, &banner);
    assert!(banner.contains("\"Welcome home\""), "{banner}");
    // The far daemon is away.
    let far = a.place.path("nothing.sock");
    let away = format!("env BLOCKYARD_API={} {PROGRAM} receive", far.display());
    let away = push(1, &script(&a.place, "away", &format!("exec {away}")));
    assert!(away.contains("no daemon answers") && away.contains("10"), "{away}");
    let nothing = a.place.fails(3, &["push", "nothing", "--via", "no-such-program"]);
    assert!(nothing.contains("nothing"), "{nothing}");
    assert_eq!((a.images(), b.images()), (1, 0));
    // Whoever asks without wanting a pipe.
    let body = r#"{"direction":"push","image":"web"}"#;
    let request = format!(
        "POST /v1/pipes/call HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = a.daemon.http(request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    a.end();
    b.end();
}

#[test]
fn a_push_that_was_cut_off_does_not_send_again_what_came() {
    let (a, b) = (Host::new(), Host::new());
    a.import("web", 4, 32);
    let cut = script(&a.place, "cut", &format!("{} | {} \"$@\"", first(12_000_000), b.via("")));
    let failed = a.place.run(&["push", "web", "--via", &cut, "--compress", "none"]);
    assert!(!failed.status.success(), "{failed:?}");
    assert!(failed.err.contains("the same command goes on"), "{failed:?}");
    assert_eq!(b.images(), 0);
    let rest = a.place.json(&["push", "web", "--via", &b.via("")]);
    let missing = number(&rest, "bytes_missing");
    assert!((19 * MIB..22 * MIB).contains(&missing), "{rest}");
    assert_eq!(a.digest("web"), b.digest("web"));

    // The other way round, where this side keeps what came.
    b.import("mine", 5, 16);
    let cut = script(&a.place, "cut-back", &format!("{} \"$@\" | {}", b.via(""), first(9_000_000)));
    let failed = a.place.run(&["pull", "mine", "--via", &cut, "--compress", "none"]);
    assert!(failed.err.contains("the same command goes on"), "{failed:?}");
    let rest = a.place.json(&["pull", "mine", "--via", &b.via("")]);
    assert!(number(&rest, "bytes_missing") < 9 * MIB, "{rest}");
    assert_eq!(a.digest("mine"), b.digest("mine"));
    a.end();
    b.end();
}

#[test]
fn ctrl_c_leaves_nothing_on_either_side() {
    let (a, b) = (Host::new(), Host::new());
    a.import("web", 6, 32);
    let before = a.bytes_physical();
    let via = b.via("");
    // First one that is cut off, so that a part is there.
    let cut = script(&a.place, "cut", &format!("{} | {via} \"$@\"", first(3_000_000)));
    a.place.run(&["push", "web", "--via", &cut, "--compress", "none"]);
    let push = ["push", "web", "--via", &via, "--rate", "8M", "--compress", "none"];
    let child = spawn(&a, &push);
    support::eventually("clusters", || b.bytes_physical() > 6 * MIB);
    // As a terminal does it: to all that it has started.
    let group = format!("/proc/{}/task/{}/children", child.id(), child.id());
    let _ = fs::read_to_string(&group).map(|children| {
        for id in children.split_whitespace() {
            let pid = Pid::from_raw(id.parse().unwrap()).unwrap();
            kill_process(pid, Signal::INT).unwrap();
        }
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("nothing of it remains"), "{said}");
    support::eventually("nothing left", || b.bytes_physical() == 0);
    support::eventually("the snapshot gone", || a.bytes_physical() == before);
    assert_eq!((a.images(), b.images()), (1, 0));

    // Before the far side said anything.
    let silent = script(&a.place, "silent", "exec sleep 600");
    let child = spawn(&a, &["push", "web", "--via", &silent]);
    thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    a.end();
    b.end();
}

/// A far end that logs in whoever has the key `any`, and lets `pusher` push images called `web*` alone.
struct Ssh {
    folder: PathBuf,
}

impl Ssh {
    fn to(far: &Host) -> Ssh {
        if geteuid().is_root() {
            fs::create_dir_all(SSHD_EMPTY).unwrap();
            fs::set_permissions(SSHD_EMPTY, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let folder = far.place.path("ssh");
        fs::create_dir(&folder).unwrap();
        let ssh = Ssh { folder };
        for key in ["host", "any", "pusher", "stranger"] {
            let file = ssh.path(key);
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &file];
            assert!(Command::new("ssh-keygen").args(keygen).status().unwrap().success());
        }
        let public = |key: &str| fs::read_to_string(ssh.path(&format!("{key}.pub"))).unwrap();
        let only = "command=\"blockyard receive --images 'web*'\",restrict";
        ssh.write("authorized_keys", &format!("{}{only} {}", public("any"), public("pusher")));
        let programs = Path::new(PROGRAM).parent().unwrap().display();
        let (api, own) = (far.daemon.api_socket(), ssh.folder.display());
        ssh.write(
            "sshd_config",
            &format!(
                "HostKey {own}/host\nAuthorizedKeysFile {own}/authorized_keys\nStrictModes no\nUsePAM no\n\
                 PasswordAuthentication no\nLogLevel ERROR\n\
                 SetEnv BLOCKYARD_API={} PATH={programs}:/usr/bin:/bin\n",
                api.display()
            ),
        );
        let mut config = format!(
            "Host *\nProxyCommand {SSHD} -i -f {own}/sshd_config\nUserKnownHostsFile {own}/known_hosts\n\
             StrictHostKeyChecking accept-new\nIdentitiesOnly yes\nBatchMode yes\n"
        );
        for key in ["any", "pusher", "stranger"] {
            config += &format!("Host {key}\nIdentityFile {own}/{key}\n");
        }
        ssh.write("config", &config);
        ssh
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    /// To be given as `--via`.
    fn with_key(&self, key: &str) -> String {
        format!("ssh -F {} {key}", self.path("config"))
    }
}

#[test]
fn images_go_through_ssh_as_far_as_its_keys_allow() {
    if !blockyard_testing::have_programs(&["sshd", "ssh", "ssh-keygen"]) {
        return;
    }
    let (near, far) = (Host::new(), Host::new());
    near.import("web", 7, 24);
    let ssh = Ssh::to(&far);
    let any = ssh.with_key("any");

    let quote = near.place.json(&["quote", "web", "--via", &any]);
    assert_eq!(quote["bytes_missing"], 24 * MIB, "{quote}");
    let pushed = near.place.json(&["push", "web", "--via", &any]);
    assert_eq!(pushed["bytes_missing"], 24 * MIB, "{pushed}");
    near.place.ok(&["pull", "web", "back", "--via", &any]);
    assert_eq!([near.digest("web"), near.digest("back")], [far.digest("web"), far.digest("web")]);

    let pusher = ssh.with_key("pusher");
    near.place.ok(&["push", "web", "web-2", "--via", &pusher]);
    let named = near.place.fails(5, &["push", "web", "other", "--via", &pusher]);
    assert!(named.contains("--images"), "{named}");
    let pulled = near.place.fails(5, &["pull", "web", "again", "--via", &pusher]);
    assert!(pulled.contains("may not pull"), "{pulled}");
    let stranger =
        near.place.fails(1, &["push", "web", "other", "--via", &ssh.with_key("stranger")]);
    assert!(stranger.contains("Permission denied") && stranger.contains("255"), "{stranger}");
    near.end();
    far.end();
}
