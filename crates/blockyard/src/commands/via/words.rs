//! A command in words, as `rsync -e` has it: blanks part them, quotes keep them together, and nothing else means
//! anything.

use blockyard_block::{Error, ErrorKind, Result};

/// The words of `text`; at least one.
pub(super) fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in text.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    let problem = match (quote, words.first()) {
        (Some(open), _) => format!("in {text:?} a {open} is not closed"),
        (None, None) => "--via takes a command, such as \"ssh host\"".to_owned(),
        (None, Some(_)) => return Ok(words),
    };
    Err(Error::new(ErrorKind::InvalidArgument, problem))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn blanks_part_words_and_quotes_keep_them_together() {
        for (text, words) in [
            ("ssh host", &["ssh", "host"][..]),
            ("  ssh  -p 22\thost ", &["ssh", "-p", "22", "host"]),
            (
                "ssh -o 'ProxyCommand nc %h %p' host",
                &["ssh", "-o", "ProxyCommand nc %h %p", "host"],
            ),
            ("a\"b c\"d '' \"it's\"", &["ab cd", "", "it's"]),
            ("$HOME ;* \\x", &["$HOME", ";*", "\\x"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for wrong in ["", "  ", "ssh 'host", "\""] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
