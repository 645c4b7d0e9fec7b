//! INSERTs of many rows for SQLite, where each statement is a trip to the thread of the connection and back.

/// Rows of one INSERT, largest first: few sizes, so that every statement stays prepared.
pub(super) const CHUNKS: [usize; 4] = [512, 64, 8, 1];

/// The statements for [`CHUNKS`]; `head` ends with `VALUES `. SQLite takes at most 32,766 parameters in one.
pub(super) fn chunk_inserts(head: &str, columns: usize) -> [String; 4] {
    // Without names: of each name the driver asks where it stands, which takes longer the more there are.
    chunk_inserts_of(head, &vec!["?"; columns].join(", "))
}

/// The same with these values in each row.
pub(super) fn chunk_inserts_of(head: &str, row: &str) -> [String; 4] {
    CHUNKS.map(|rows| format!("{head}{}", vec![format!("({row})"); rows].join(", ")))
}

/// Cuts rows into the largest chunks that fit, in order, each with the statement for it.
pub(super) fn cut<'r, 's, T>(
    mut rows: &'r [T],
    statements: &'s [String; 4],
) -> impl Iterator<Item = (&'s str, &'r [T])> {
    std::iter::from_fn(move || {
        let fits = |size: &usize| *size <= rows.len();
        let at = CHUNKS.iter().position(fits)?;
        let (chunk, rest) = rows.split_at(CHUNKS[at]);
        rows = rest;
        Some((statements[at].as_str(), chunk))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_is_cut_into_statements_that_fit() {
        let statements = chunk_inserts("INSERT INTO t (a, b) VALUES ", 2);
        assert_eq!(statements[3], "INSERT INTO t (a, b) VALUES (?, ?)");
        let parameters = |sql: &str| sql.matches('?').count();
        for (rows, sql) in CHUNKS.iter().zip(&statements) {
            assert_eq!(parameters(sql), rows * 2);
        }
        for count in [0, 1, 7, 8, 513, 1_000] {
            let rows: Vec<usize> = (0..count).collect();
            let mut back = Vec::new();
            for (sql, chunk) in cut(&rows, &statements) {
                assert_eq!(parameters(sql), chunk.len() * 2);
                back.extend_from_slice(chunk);
            }
            assert_eq!(back, rows);
        }
    }
}
