//! A number of bytes as it is typed.

use std::str::FromStr;

/// Bytes, such as `500MiB`, `100GiB` or `1TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start().to_ascii_lowercase();
        let shift = match unit.strip_suffix("ib").unwrap_or(&unit) {
            "" | "b" if unit != "ib" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err("not a size such as 500MiB, 100GiB or 1TiB".into()),
        };
        let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| "too large".into())
    }
}

impl TryFrom<toml::Value> for Size {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Size, String> {
        value.as_str().map_or_else(|| value.to_string().parse(), str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let check = |text: &str, bytes: u64| assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("512b", 512);
        check("500MiB", 500 << 20);
        check("100G", 100 << 30);
        check("1 tib", 1 << 40);
        for text in ["", "G", "-1", "1x", "1ib", "1.5G", "99999999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
