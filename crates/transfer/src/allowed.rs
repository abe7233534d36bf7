//! What a peer may ask for: which way, and of which images.

use blockyard_block::ImageName;

/// What a peer may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    pub push: bool,
    pub pull: bool,
    /// Patterns of the names of images: `*` stands for any characters, `?` for one. All images if there are none.
    pub images: Vec<String>,
}

impl Allowed {
    pub(crate) fn names(&self, image: &ImageName) -> bool {
        let fits = |pattern: &String| matches(pattern.as_bytes(), image.as_str().as_bytes());
        self.images.is_empty() || self.images.iter().any(fits)
    }
}

/// In time that grows with the product of both lengths at worst.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where the last star was, and up to where it stands for the name.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[from] => {
                at += 1;
                from += 1;
            }
            _ => match &mut star {
                Some((place, end)) => {
                    *end += 1;
                    (at, from) = (*place + 1, *end);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        for (pattern, name, fits) in [
            ("web", "web", true),
            ("web", "web1", false),
            ("web*", "web", true),
            ("web-?", "web-1", true),
            ("web-?", "web-", false),
            ("*-db", "a-b-db", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**?", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
