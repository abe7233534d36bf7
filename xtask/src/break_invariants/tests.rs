//! What `break_invariants` promises, one test for each promise.

use super::{Break, Verdict, agree, choose, parse, try_all};
use std::collections::BTreeSet;

const TWO: &[Break] = &[
    Break { name: "one", rule: "I1", what: "does one thing wrong" },
    Break { name: "two", rule: "I2", what: "does another thing wrong" },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn asked(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn it_holds_only_if_every_break_is_caught() {
    let all: Vec<&Break> = TWO.iter().collect();
    assert!(try_all(&all, |_| Ok(Verdict::Failed)).unwrap());
    let one_passes =
        |name: &str| Ok(if name == "one" { Verdict::Passed } else { Verdict::Unclear });
    assert!(!try_all(&all, one_passes).unwrap());
    assert!(try_all(&all, |_| Ok(Verdict::Unclear)).is_err());
}

#[test]
fn the_list_and_the_code_must_name_the_same_breaks() {
    agree(TWO, &asked(&["one", "two"])).unwrap();
    assert!(agree(TWO, &asked(&["one"])).is_err());
    assert!(agree(TWO, &asked(&["one", "two", "three"])).is_err());
    assert!(agree(&[], &asked(&[])).is_err(), "nothing to try is not success");
}

#[test]
fn arguments_choose_breaks_and_seeds() {
    let request = parse(&words(&["--seeds", "7", "two"])).unwrap();
    assert_eq!(request.seeds, 7);
    let chosen = choose(TWO, &request.names).unwrap();
    assert_eq!(chosen.iter().map(|chosen| chosen.name).collect::<Vec<_>>(), ["two"]);
    assert_eq!(choose(TWO, &[]).unwrap().len(), 2);
    assert!(choose(TWO, &words(&["three"])).is_err());
    for wrong in [&["--seeds"][..], &["--seeds", "x"], &["--no-such"]] {
        assert!(parse(&words(wrong)).is_err());
    }
}
