//! Which breaks the code asks about: every `broken("name")` in the Rust files of a folder.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

pub(super) fn names_asked(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            names.append(&mut names_asked(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(names_in(&fs::read_to_string(&path)?));
        }
    }
    Ok(names)
}

/// Comments may speak of breaks without asking.
fn names_in(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("broken(\"").skip(1))
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{names_asked, names_in};

    #[test]
    fn every_question_of_the_code_is_found_and_comments_are_not_code() {
        let text = "
            // broken(\"in-a-comment\")
            if broken(\"one\") || crate::breaks::broken(\"two\") {}
            fn broken(name: &str) {}
        ";
        assert_eq!(names_in(text), ["one", "two"]);
    }

    #[test]
    fn folders_are_searched_to_the_bottom_for_rust_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/c.rs"), "broken(\"deep\")").unwrap();
        std::fs::write(folder.path().join("a/notes.md"), "broken(\"prose\")").unwrap();
        let names = names_asked(folder.path()).unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["deep"]);
    }
}
