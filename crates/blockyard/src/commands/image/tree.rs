//! `blockyard image tree`: images under those they came of, as far as their maps show it.

use crate::commands::Session;
use crate::output::table::Table;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{ImageKind, ImageTree, ImageTreeNode};
use clap::Args;
use std::collections::HashMap;

/// Show images under those that they share most with
///
/// The pool keeps no record of what an image was made from. Each is shown under the older image with which it has
/// most extents (4 MiB) in common; once it has changed all of them it stands alone. Successive snapshots are shown beside
/// each other, though each has most in common with the one before: --json has that one as their parent.
#[derive(Debug, Args)]
pub(crate) struct Flags {}

pub(crate) fn run(_flags: &Flags, session: &Session) -> Result<()> {
    let tree = session.client()?.image_tree()?;
    session.output.print(&tree, || text(&tree))
}

fn text(tree: &ImageTree) -> String {
    if tree.images.is_empty() {
        return "no images yet: see blockyard image create, blockyard image import\n".to_owned();
    }
    let by_name: HashMap<&str, &ImageTreeNode> =
        tree.images.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut below: Below = HashMap::new();
    for node in &tree.images {
        below.entry(shown_under(&by_name, node)).or_default().push(node);
    }
    let mut table = Table::with_header(["NAME", "SIZE", "MAPPED", "SHARED", "OWN", "KIND"]);
    add_children(&below, None, "", &mut table);
    table.to_string()
}

/// What is shown under each image; under none, those that stand alone.
type Below<'a> = HashMap<Option<&'a str>, Vec<&'a ImageTreeNode>>;

/// Of successive snapshots of an image each shares most with the one before it. They are shown beside each other: one
/// below the other they would be a staircase.
fn shown_under<'a>(
    by_name: &HashMap<&str, &'a ImageTreeNode>,
    node: &'a ImageTreeNode,
) -> Option<&'a str> {
    let mut parent = node.parent.as_deref();
    while node.kind == ImageKind::Snapshot
        && let Some(above) = parent.and_then(|parent| by_name.get(parent))
        && above.kind == ImageKind::Snapshot
        && above.parent.is_some()
    {
        parent = above.parent.as_deref();
    }
    parent
}

/// Parents are older than their children, so this ends.
fn add_children(below: &Below<'_>, parent: Option<&str>, indent: &str, table: &mut Table) {
    let Some(children) = below.get(&parent) else { return };
    for (number, node) in children.iter().enumerate() {
        let last = number + 1 == children.len();
        let (branch, further) = match (parent.is_none(), last) {
            (true, _) => ("", ""),
            (false, true) => ("└─ ", "   "),
            (false, false) => ("├─ ", "│  "),
        };
        table.row([
            format!("{indent}{branch}{}", node.name),
            human(node.size_bytes),
            human(node.bytes_mapped),
            human(node.bytes_shared),
            human(node.bytes_exclusive),
            match node.kind {
                ImageKind::Writable => "writable",
                ImageKind::Snapshot => "snapshot",
            }
            .to_owned(),
        ]);
        add_children(below, Some(&node.name), &format!("{indent}{further}"), table);
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use blockyard_api::{ImageKind, ImageTree, ImageTreeNode};

    fn node(name: &str, parent: Option<&str>) -> ImageTreeNode {
        ImageTreeNode {
            name: name.to_owned(),
            id: 1,
            parent: parent.map(str::to_owned),
            bytes_in_common: 0,
            kind: ImageKind::Writable,
            size_bytes: 4096,
            bytes_mapped: 4096,
            bytes_shared: 0,
            bytes_exclusive: 4096,
            created_unix_s: 0,
        }
    }

    /// The first column.
    fn names(images: Vec<ImageTreeNode>) -> Vec<String> {
        let drawn = text(&ImageTree { images });
        let name = |line: &str| line.split("  4.0").next().unwrap().trim_end().to_owned();
        let names: Vec<String> = drawn.lines().map(name).collect();
        assert!(names[0].starts_with("NAME"));
        names[1..].to_vec()
    }

    #[test]
    fn children_are_drawn_below_their_parents() {
        let images = vec![
            node("master", None),
            node("a", Some("master")),
            node("a1", Some("a")),
            node("b", Some("master")),
            node("other", None),
        ];
        assert_eq!(names(images), ["master", "├─ a", "│  └─ a1", "└─ b", "other"]);
    }

    #[test]
    fn successive_snapshots_are_drawn_beside_each_other_and_clones_below_theirs() {
        let snapshot =
            |name, parent| ImageTreeNode { kind: ImageKind::Snapshot, ..node(name, parent) };
        let images = vec![
            node("master", None),
            snapshot("monday", Some("master")),
            snapshot("tuesday", Some("monday")),
            snapshot("friday", Some("tuesday")),
            node("kid", Some("tuesday")),
            snapshot("of-kid", Some("kid")),
        ];
        let drawn = ["├─ monday", "├─ tuesday", "│  └─ kid", "│     └─ of-kid", "└─ friday"];
        assert_eq!(names(images.clone())[1..], drawn);
        // The image itself is gone: the first snapshot has its place.
        let mut left = images[1..].to_vec();
        left[0].parent = None;
        let drawn = ["monday", "├─ tuesday", "│  └─ kid", "│     └─ of-kid", "└─ friday"];
        assert_eq!(names(left), drawn);
    }
}
