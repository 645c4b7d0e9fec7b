//! What people read: tables, ages, colours. Pure, but for [`Output`], which writes.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Row, Table, presets};
use jiff::Timestamp;

use super::failure::Failure;
use crate::domain::duration::HumanDuration;

/// Stdout, as this command uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Print the API's JSON instead of text for people.
    pub(crate) json: bool,
    /// Whether colour codes may be written.
    pub(crate) color: bool,
    /// Columns of the terminal; `None`: not a terminal, nothing is cut or wrapped.
    width: Option<u16>,
}

impl Output {
    /// As stdout is: colours for a terminal only, and never with `NO_COLOR` (no-color.org).
    pub(crate) fn of_stdout(json: bool, no_color: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            json,
            color: terminal && !no_color,
            width: terminal_size::terminal_size_of(std::io::stdout())
                .map(|(terminal_size::Width(columns), _)| columns),
        }
    }

    /// As for a pipe: no colours, any width.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self {
            json: false,
            color: false,
            width: None,
        }
    }

    /// Writes `text` and a line's end.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        // Followers must see each line at once, and a closed pipe must be noticed now, not at exit.
        stdout.flush()?;
        Ok(())
    }

    /// A table that fits the terminal.
    pub(crate) fn table<const N: usize>(self, header: [&str; N], rows: Vec<[String; N]>) -> String {
        table(self.width, header, rows)
    }

    /// `text` in the colour that `code` names (ECMA-48, SGR), if colours are allowed.
    pub(crate) fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A line on stderr. One that nobody can read any more, as after the end of a terminal, is no reason to fail.
pub(crate) fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// SGR codes.
pub(crate) const BOLD: &str = "1";
pub(crate) const DIM: &str = "2";
pub(crate) const RED: &str = "31";
pub(crate) const GREEN: &str = "32";
pub(crate) const YELLOW: &str = "33";

pub(crate) fn table<const N: usize>(
    width: Option<u16>,
    header: [&str; N],
    rows: Vec<[String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    table.set_header(Row::from(header.map(str::to_uppercase)));
    for row in rows {
        table.add_row(Row::from(row.map(|cell| plain(&cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Control characters of a text that came from elsewhere would steer the terminal; they become `?`.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

/// As [`plain`], for texts of several lines.
pub(crate) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// The two largest units of a duration: `2d 3h`, `5m 10s`, `0s`.
pub(crate) fn rough(ms: u64) -> String {
    let text = HumanDuration::from_secs(ms / 1_000).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How long ago an RFC 3339 time is; `-` when it is absent or unreadable.
pub(crate) fn age(at: Option<&str>, now: Timestamp) -> String {
    match millis_between(at, now) {
        Some(ms) => rough(ms.max(0).unsigned_abs()),
        None => "-".to_owned(),
    }
}

/// When an RFC 3339 time comes: `in 5m`, or `2h ago`; `-` when it is absent.
pub(crate) fn due(at: Option<&str>, now: Timestamp) -> String {
    match millis_between(at, now) {
        Some(ms) if ms <= 0 => format!("in {}", rough(ms.unsigned_abs())),
        Some(ms) => format!("{} ago", rough(ms.unsigned_abs())),
        None => "-".to_owned(),
    }
}

fn millis_between(at: Option<&str>, now: Timestamp) -> Option<i64> {
    let at: Timestamp = at?.parse().ok()?;
    Some(now.as_millisecond() - at.as_millisecond())
}

/// The time of day of an RFC 3339 time, in the host's zone, for lines that follow one another.
pub(crate) fn clock(at: &str) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M:%S%.3f")
            .to_string(),
        Err(_) => "--:--:--.---".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    #[test]
    fn ages_are_short() {
        let now: Timestamp = NOW.parse().expect("a time");
        assert_eq!(age(Some("2026-11-21T09:59:30.2Z"), now), "29s");
        assert_eq!(age(Some("2026-11-19T06:50:00Z"), now), "2d 3h");
        assert_eq!(age(Some("2026-11-21T10:00:05Z"), now), "0s");
        assert_eq!(age(None, now), "-");
        assert_eq!(due(Some("2026-11-21T11:30:00Z"), now), "in 1h 30m");
        assert_eq!(due(Some("2026-11-21T09:58:00Z"), now), "2m ago");
        assert_eq!(due(Some("rubbish"), now), "-");
    }

    #[test]
    fn a_table_never_carries_control_characters() {
        let text = table(None, ["a"], vec![["x\u{1b}[31mred\u{7}".to_owned()]]);
        assert_eq!(text, "A\nx?[31mred?");
    }

    #[test]
    fn colours_only_where_allowed() {
        let mut output = Output::plain();
        assert_eq!(output.paint(RED, "x"), "x");
        output.color = true;
        assert_eq!(output.paint(RED, "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
