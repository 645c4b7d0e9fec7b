//! How the values of options are read, where clap has no type for them.

/// `KEY=VALUE`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// `MIN-MAX`.
pub(super) fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wanted = || "write MIN-MAX, two ports from 1 to 65535 such as 3001-3999".to_owned();
    let (min, max) = text.split_once('-').ok_or_else(wanted)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (port(min), port(max)) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(min), Some(max)) => Err(format!(
            "{min} is above {max}; the lower port comes first: {max}-{min}"
        )),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_that_is_none_says_why() {
        assert_eq!(port_range("3001 - 3999"), Ok((3_001, 3_999)));
        assert_eq!(port_range("80-80"), Ok((80, 80)));
        let said = port_range("5-3").expect_err("upside down");
        assert_eq!(said, "5 is above 3; the lower port comes first: 3-5");
        for bad in ["3001", "a-b", "0-8", "3001-70000", "1-2-3", "-"] {
            let said = port_range(bad).expect_err(bad);
            assert!(said.contains("1 to 65535"), "{bad}: {said}");
        }
    }
}
