//! What the command line of xtask promises, one test for each promise.

use super::{COMMANDS, dispatch, overview};

fn run(words: &[&str]) -> Result<bool, String> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    dispatch(&words).map_err(|unclear| unclear.to_string())
}

#[test]
fn help_is_given_for_everything_and_names_every_command() {
    assert_eq!(run(&["--help"]), Ok(true));
    for command in COMMANDS {
        assert!(overview().contains(command.name));
        assert!(command.help.contains(command.name));
        assert_eq!(run(&[command.name, "--help"]), Ok(true));
    }
}

#[test]
fn without_a_known_command_the_answer_lists_them() {
    for words in [&[][..], &["no-such"]] {
        let unclear = run(words).unwrap_err();
        assert!(COMMANDS.iter().all(|command| unclear.contains(command.name)));
    }
}
