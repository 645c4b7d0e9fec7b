//! Arguments in which the path of a file stands that is only known once the sandbox is built.

use serde::{Deserialize, Serialize};

/// A place in an argument where the path of a file goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileArgument {
    /// Which argument, counted from the program.
    pub index: usize,
    /// Before this byte of it.
    pub at: usize,
    /// The variable that the file is named after.
    pub file: String,
}

/// `argv` with the paths in their places, those of one argument from left to right. A place that does not exist, or a
/// file without a path, is left out.
#[must_use]
pub fn filled(
    argv: &[String],
    places: &[FileArgument],
    path_of: impl Fn(&str) -> Option<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let fill = |(index, argument): (usize, &String)| {
        let mut out = Vec::with_capacity(argument.len());
        let mut from = 0;
        for place in places.iter().filter(|place| place.index == index) {
            if let (Some(text), Some(path)) = (argument.get(from..place.at), path_of(&place.file)) {
                out.extend_from_slice(text.as_bytes());
                out.extend(path);
                from = place.at;
            }
        }
        out.extend_from_slice(&argument.as_bytes()[from..]);
        out
    };
    argv.iter().enumerate().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_where_they_belong_and_nowhere_else() {
        let place = |index, at, file: &str| FileArgument {
            index,
            at,
            file: file.to_owned(),
        };
        let argv = ["p", "--config=", "--both=:x", "\u{e9}"].map(str::to_owned);
        let places = [
            place(1, 9, "A"),
            place(2, 7, "A"),
            place(2, 8, "B"),
            // Outside, within a character, and of a file that is not there.
            place(1, 99, "A"),
            place(3, 1, "A"),
            place(0, 0, "C"),
        ];
        let path_of = |name: &str| match name {
            "A" => Some(b"/run/A".to_vec()),
            "B" => Some(b"/run/B".to_vec()),
            _ => None,
        };
        let expected = ["p", "--config=/run/A", "--both=/run/A:/run/Bx", "\u{e9}"];
        let expected = expected.map(|text| text.as_bytes().to_vec());
        assert_eq!(filled(&argv, &places, path_of), expected);
    }
}
