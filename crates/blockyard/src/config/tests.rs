//! Which source wins.

use super::environment::layer;
use super::serve::HashName;
use super::{Config, IoMode, IoThreads, Layer, ServeSettings, SocketMode, Switch};
use crate::size::Size;
use std::ffi::OsString;
use std::path::PathBuf;

fn file(text: &str) -> Layer {
    toml::from_str(text).unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Layer {
    let lookup = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    layer(&lookup).unwrap()
}

fn config(layers: Vec<Layer>) -> Config {
    Config { layers, pool_default: Some(PathBuf::from("/default")) }
}

#[test]
fn flags_win_over_environment_over_file() {
    let flags = ServeSettings { io: Some(IoMode::Buffered), ..ServeSettings::default() };
    let config = config(vec![
        Layer { serve: flags, ..Layer::default() },
        environment(&[("BLOCKYARD_IO", "direct"), ("BLOCKYARD_HASH", "sha256")]),
        file("[serve]\nio = \"direct\"\nhash = \"sha1\"\ncapacity = \"20G\""),
    ]);
    let serve = config.serve();
    assert_eq!(serve.io, Some(IoMode::Buffered));
    assert_eq!(serve.hash, Some(HashName::Sha256));
    assert_eq!(serve.capacity, Some(Size(20 << 30)));
}

#[test]
fn the_strongest_source_that_names_a_daemon_decides() {
    let pool_by_flag = Layer { pool: Some("/a".into()), ..Layer::default() };
    let api_by_environment = environment(&[("BLOCKYARD_API", "unix:/b/api.sock")]);
    let flag_first = config(vec![pool_by_flag, api_by_environment.clone()]);
    assert_eq!(flag_first.api_socket().unwrap(), PathBuf::from("/a/api.sock"));
    let environment_first = config(vec![api_by_environment, file("pool = \"/c\"")]);
    assert_eq!(environment_first.api_socket().unwrap(), PathBuf::from("/b/api.sock"));
    let nothing_said = config(vec![Layer::default()]);
    assert_eq!(nothing_said.api_socket().unwrap(), PathBuf::from("/default/api.sock"));
}

#[test]
fn every_setting_can_come_from_the_environment() {
    let values = |key: &str| match key {
        "hash" => "sha1",
        "capacity" => "1G",
        "io" => "buffered",
        "io_threads" => "3",
        "verify_reads" => "true",
        "socket_mode" => "0600",
        "reclaim_above" => "20G",
        "log_format" => "json",
        _ => "/some/text",
    };
    for key in ServeSettings::KEYS {
        let name = format!("BLOCKYARD_{}", key.to_ascii_uppercase());
        let layer = environment(&[(&name, values(key))]);
        assert_ne!(layer.serve, ServeSettings::default(), "{name} is ignored");
    }
    let all = ServeSettings::KEYS.map(|key| format!("{key} = {:?}\n", values(key))).concat();
    let settings = file(&format!("[serve]\n{all}")).serve;
    assert_eq!(settings.socket_mode, Some(SocketMode(0o600)));
    assert_eq!(settings.io_threads, Some(IoThreads(3)));
    assert_eq!(settings.verify_reads, Some(Switch(true)));
    assert_eq!(file("[serve]\nverify_reads = false").serve.verify_reads, Some(Switch(false)));
    assert_eq!(file("[serve]\nio_threads = 3").serve.io_threads, Some(IoThreads(3)));
    assert!(!format!("{settings:?}").contains("None"), "KEYS lacks a setting: {settings:?}");
}

#[test]
fn unknown_settings_and_bad_values_are_refused() {
    for text in [
        "sevre = 1",
        "[serve]\nhsah = \"sha1\"",
        "[serve]\nsocket_mode = \"rw\"",
        "[serve]\nio_threads = -1",
        "[serve]\nverify_reads = \"maybe\"",
    ] {
        assert!(toml::from_str::<Layer>(text).is_err(), "{text}");
    }
    for address in ["", "unix:", "http://localhost"] {
        assert!(super::parse_address(address).is_err(), "{address:?}");
    }
}
