//! `blockyard image tree`: images under those they came of, as far as their maps show it.

use crate::commands::Session;
use crate::output::table::Table;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{ImageKind, ImageTree, ImageTreeNode};
use clap::Args;

/// Show images under those that they share most with
///
/// The pool keeps no record of what an image was made from. Each is shown under the older image with which it has
/// most extents (4 MiB) in common; once it has changed all of them it stands alone.
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
    let mut table = Table::with_header(["NAME", "SIZE", "MAPPED", "SHARED", "OWN", "KIND"]);
    add_children(tree, None, "", &mut table);
    table.to_string()
}

/// Parents are older than their children, so this ends.
fn add_children(tree: &ImageTree, parent: Option<&str>, indent: &str, table: &mut Table) {
    let children: Vec<&ImageTreeNode> =
        tree.images.iter().filter(|node| node.parent.as_deref() == parent).collect();
    for (number, node) in children.iter().enumerate() {
        let last = number + 1 == children.len();
        let (branch, below) = match (parent.is_none(), last) {
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
        add_children(tree, Some(&node.name), &format!("{indent}{below}"), table);
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

    #[test]
    fn children_are_drawn_below_their_parents() {
        let images = vec![
            node("master", None),
            node("a", Some("master")),
            node("a1", Some("a")),
            node("b", Some("master")),
            node("other", None),
        ];
        let drawn = text(&ImageTree { images });
        let names: Vec<&str> =
            drawn.lines().map(|line| line.split("  4.0").next().unwrap()).collect();
        assert!(names[0].starts_with("NAME"));
        let names: Vec<&str> = names[1..].iter().map(|name| name.trim_end()).collect();
        assert_eq!(names, ["master", "├─ a", "│  └─ a1", "└─ b", "other"]);
    }
}
