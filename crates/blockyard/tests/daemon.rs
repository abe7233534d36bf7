//! The daemon's life: starting, being alone, stopping, and being told how.

mod support;

use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::loop_device::LoopDevice;
use support::{Daemon, Finished, NbdClient, Place};

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let message = place.fails(7, &["serve"]);
    assert!(message.contains(&daemon.pid().to_string()), "{message}");
    place.ok(&["pool", "status"]);
}

#[test]
fn two_daemons_run_side_by_side_and_know_nothing_of_each_other() {
    let place = Place::new();
    let (one, two) = (place.path("one"), place.path("two"));
    let _daemons = (place.serve_pool(&one, &[]), place.serve_pool(&two, &[]));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    place.ok(&["--pool", one, "image", "create", "secret", "1M"]);
    place.fails(3, &["--pool", two, "image", "info", "secret"]);
    assert!(!place.ok(&["--pool", two, "image", "list"]).contains("secret"));
}

#[test]
fn both_signals_close_the_pool_in_order_and_leave_no_sockets() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = place.serve(&[]);
        daemon.signal(signal);
        assert!(daemon.wait().success(), "{}", daemon.log());
        assert!(!daemon.api_socket().exists() && !daemon.nbd_socket().exists());
    }
    let _daemon = place.serve(&[]);
    assert_eq!(place.json(&["pool", "status"])["opened_clean"], true);
}

#[test]
fn a_signal_sent_twice_is_one() {
    let place = Place::new();
    for pause_ms in [0, 1, 3, 10, 20] {
        let mut daemon = place.serve(&[]);
        daemon.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(pause_ms));
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success(), "after {pause_ms} ms: {}", daemon.log());
    }
}

#[test]
fn a_killed_daemon_is_followed_by_another_that_says_so() {
    let place = Place::new();
    place.serve(&[]).kill();
    let daemon = place.serve(&[]);
    assert!(daemon.api_socket().exists(), "the stale sockets were replaced");
    assert_eq!(place.json(&["pool", "status"])["opened_clean"], false);
}

#[test]
fn sockets_are_closed_to_others() {
    let place = Place::new();
    let daemon = place.serve(&["--socket-mode", "0640"]);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(daemon.api_socket()), mode(daemon.nbd_socket())), (0o600, 0o640));
    daemon.stop();
    let daemon = place.serve(&[]);
    assert_eq!((mode(daemon.api_socket()), mode(daemon.nbd_socket())), (0o600, 0o660));
}

#[test]
fn without_a_daemon_the_error_says_how_to_start_one() {
    let place = Place::new();
    let message = place.fails(10, &["image", "list"]);
    assert!(message.contains("blockyard serve --pool"), "{message}");
}

#[test]
fn flags_win_over_environment_over_file() {
    let place = Place::new();
    let config = place.path("config.toml");
    fs::write(&config, "[serve]\nhash = \"sha1\"\nio = \"buffered\"\nsocket_mode = \"0600\"\n")
        .unwrap();
    let mut command = place.command();
    command.arg("serve").arg("--pool").arg(place.pool()).arg("--config").arg(&config);
    command.args(["--hash", "sha256"]).env("BLOCKYARD_HASH", "blake3");
    command.env("BLOCKYARD_SOCKET_MODE", "0620");
    let daemon = Daemon::start(command, &place.pool(), &place.path("daemon.log"));
    let status = place.json(&["pool", "status"]);
    assert_eq!((&status["hash"], &status["daemon"]["io"]), (&"sha256".into(), &"buffered".into()));
    let mode = fs::metadata(daemon.nbd_socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o620);
}

#[test]
fn commands_find_the_daemon_by_pool_by_address_and_by_environment() {
    let place = Place::new();
    let socket = place.path("control");
    let _daemon = place.serve(&["--api-socket", socket.to_str().unwrap()]);
    let address = format!("unix:{}", socket.display());
    let list = |name: &str, value: &str, flags: &[&str]| {
        let mut command = place.command();
        command.env(name, value).args(flags).args(["image", "list"]);
        Finished::of(command)
    };
    list("BLOCKYARD_API", &address, &[]).ok();
    list("BLOCKYARD_POOL", "/nonexistent", &["--api", socket.to_str().unwrap()]).ok();
    // A flag that names a pool outweighs an environment that names a daemon.
    let other = place.path("other");
    let refused = list("BLOCKYARD_API", &address, &["--pool", other.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(10), "{refused:?}");
}

#[test]
fn systemd_hears_ready_and_stopping() {
    let place = Place::new();
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = place.command();
    command.arg("serve").arg("--pool").arg(place.pool()).env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start(command, &place.pool(), &place.path("daemon.log"));
    let mut text = [0; 64];
    let length = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"READY=1");
    daemon.stop();
    let length = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"STOPPING=1");
}

#[test]
fn the_log_can_be_json() {
    let place = Place::new();
    let daemon = place.serve(&["--log-format", "json"]);
    let log = daemon.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.pool()).unwrap();
    fs::write(place.pool().join("data"), "precious").unwrap();
    let message = place.fails(8, &["serve"]);
    assert!(message.contains("data"), "{message}");
    assert_eq!(fs::read(place.pool().join("data")).unwrap(), b"precious");
}

#[test]
fn a_pool_whose_making_was_cut_off_is_made_anew() {
    let place = Place::new();
    fs::create_dir(place.pool()).unwrap();
    fs::write(place.pool().join("unfinished"), "").unwrap();
    fs::write(place.pool().join("data"), "half").unwrap();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1M"]);
    assert!(!place.pool().join("unfinished").exists());
}

#[test]
fn data_kept_elsewhere_is_found_again_without_being_named() {
    let place = Place::new();
    let data = place.path("elsewhere");
    place.serve(&["--data", data.to_str().unwrap()]).stop();
    assert!(fs::metadata(&data).unwrap().len() > 0);
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1M"]);
    daemon.stop();
    let moved = place.path("moved");
    fs::rename(&data, &moved).unwrap();
    assert!(place.run(&["serve"]).err.contains("elsewhere"));
    place.serve(&["--data", moved.to_str().unwrap()]).stop();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "info", "web"]);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
    let place = Place::new();
    let pool = place.path(&"x".repeat(100));
    let message = place.fails(2, &["serve", "--pool", pool.to_str().unwrap()]);
    assert!(message.contains("--nbd-socket"), "{message}");
    assert!(!pool.exists());
}

#[test]
fn a_pool_cannot_change_its_hash() {
    let place = Place::new();
    place.serve(&["--hash", "sha1"]).stop();
    assert!(place.fails(2, &["serve", "--hash", "blake3"]).contains("sha1"));
    let _daemon = place.serve(&[]);
    assert_eq!(place.json(&["pool", "status"])["hash"], "sha1");
}

#[test]
fn a_group_that_may_use_the_nbd_socket_can_reach_it() {
    let place = Place::new();
    let group = rustix::process::getgid().as_raw().to_string();
    let daemon = place.serve(&["--socket-group", &group]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&daemon.pool), mode(&daemon.nbd_socket())), (0o710, 0o660));
    daemon.stop();
    assert!(
        place.fails(3, &["serve", "--socket-group", "no-such-group"]).contains("no-such-group")
    );
}

#[test]
fn clients_that_only_wait_do_not_hold_up_a_stop() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1M"]);
    let _idle = NbdClient::open(&daemon, "web");
    let mut half_a_request = UnixStream::connect(daemon.api_socket()).unwrap();
    half_a_request.write_all(b"GET /v1").unwrap();
    let started = Instant::now();
    daemon.stop();
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn data_can_lie_on_a_block_device() {
    let place = Place::new();
    let file = place.path("device");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = LoopDevice::attach(&file, &[]) else { return };
    let daemon = place.serve(&["--data", &device.path]);
    place.ok(&["image", "create", "web", "8M"]);
    assert!(NbdClient::open(&daemon, "web").write(0, &[7; 8192]));
    let status = place.json(&["pool", "status"]);
    assert_eq!(status["bytes_physical"], 8192);
    let capacity = status["bytes_capacity"].as_u64().unwrap();
    assert!((32 << 20..=64 << 20).contains(&capacity), "{capacity}");
    let digest = place.ok(&["image", "digest", "web"]);
    daemon.kill();
    let daemon = place.serve(&[]);
    place.wait_until_trusted();
    assert_eq!(place.ok(&["image", "digest", "web"]), digest);
    daemon.stop();
}

#[test]
fn data_that_is_no_longer_what_it_was_is_named() {
    let place = Place::new();
    let data = place.path("data-of-it");
    place.serve(&["--data", data.to_str().unwrap()]).stop();
    for other in [&[][..], &[7; 1 << 16]] {
        fs::write(&data, other).unwrap();
        let message = place.fails(8, &["serve"]);
        assert!(message.contains(data.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_capacity_that_holds_nothing_is_refused_before_anything_is_made() {
    let place = Place::new();
    for capacity in ["0", "4095"] {
        let message = place.fails(2, &["serve", "--capacity", capacity]);
        assert!(message.contains("less than one cluster"), "{message}");
    }
    assert!(!place.pool().exists());
}
