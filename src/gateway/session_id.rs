//! The ids of client sessions as clients send them: 32 digits, lower case. Read with every request, so without detours.

/// How many digits stand for one half of an id.
const HALF: usize = 16;

/// Reads an id; `None` for anything that [`write`] does not give.
#[must_use]
pub fn read(text: &str) -> Option<u128> {
    let (high, low) = text.as_bytes().split_at_checked(HALF)?;
    if low.len() != HALF {
        return None;
    }
    Some(u128::from(half(high)?) << 64 | u128::from(half(low)?))
}

/// The id as clients send it.
#[must_use]
pub fn write(id: u128) -> String {
    format!("{id:032x}")
}

fn half(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(id in any::<u128>()) {
            prop_assert_eq!(read(&write(id)), Some(id));
        }

        #[test]
        fn what_is_read_is_what_is_written(text in "[0-9a-gA-F+ é]{30,34}") {
            if let Some(id) = read(&text) {
                prop_assert_eq!(write(id), text);
            }
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(read(good), Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        for text in [
            "",
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}0"),
            "+123456789abcdef0123456789abcdef",
            "0123456789abcdeé0123456789abcde",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
