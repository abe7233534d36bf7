//! Columns of text, as wide as they need to be.

use std::fmt;

/// Rows of cells; the last column is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first row names the columns.
    pub(crate) fn with_header<const N: usize>(names: [&str; N]) -> Table {
        Table { rows: vec![names.map(str::to_owned).to_vec()] }
    }

    /// A table of two columns: what and its value.
    pub(crate) fn pairs() -> Table {
        Table { rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn pair(&mut self, what: &str, value: impl fmt::Display) {
        self.rows.push(vec![format!("{what}:"), value.to_string()]);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_header(["NAME", "SIZE"]);
        table.row(["debian".to_owned(), "1.0 GiB".to_owned()]);
        assert_eq!(table.to_string(), "NAME    SIZE\ndebian  1.0 GiB\n");
    }
}
