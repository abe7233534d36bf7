//! What needs no daemon.

mod support;

use support::{Finished, Place};

#[test]
fn completions_know_the_commands() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.ok(&["completions", shell]);
        assert!(script.contains("snapshot") && script.contains("nbd-socket"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let place = Place::new();
    let folder = place.path("man");
    place.ok(&["man", folder.to_str().unwrap()]);
    for page in ["blockyard.1", "blockyard-serve.1", "blockyard-image-create.1"] {
        assert!(std::fs::metadata(folder.join(page)).unwrap().len() > 100, "{page}");
    }
}

#[test]
fn a_config_file_that_is_named_must_be_there_and_be_right() {
    let place = Place::new();
    let file = place.path("config.toml");
    let path = file.to_str().unwrap().to_owned();
    place.fails(3, &["--config", &path, "image", "list"]);
    std::fs::write(&file, "colour = 3").unwrap();
    let message = place.fails(2, &["--config", &path, "image", "list"]);
    assert!(message.contains("colour") && message.contains(&path), "{message}");
    let mut command = place.command();
    command.args(["image", "list"]).env("BLOCKYARD_CONFIG", &path);
    assert_eq!(Finished::of(command).status.code(), Some(2));
}

#[test]
fn a_command_that_is_wrong_exits_with_2() {
    let place = Place::new();
    for arguments in [["image"].as_slice(), &["imgae"], &["image", "create", "x", "20X"]] {
        assert_eq!(place.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
