// SPDX-License-Identifier: Apache-2.0
//! Typed reads of environment variables. What is wrong is collected, so that a person sees every mistake at once, each
//! with the variable, its value and what is accepted. It does not read the environment: the caller hands it over.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// The variables, and what was wrong with those that were read so far. An empty value counts as unset unless a read says
/// otherwise.
#[derive(Debug)]
pub struct Env {
    variables: BTreeMap<String, String>,
    invalid: Vec<InvalidVariable>,
}

/// One variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: must be {accepted}")]
pub struct InvalidVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is accepted.
    pub accepted: String,
}

/// Every variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidEnvironment(pub Vec<InvalidVariable>);

impl Display for InvalidEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid environment")?;
        for variable in &self.0 {
            write!(f, "\n  {variable}")?;
        }
        Ok(())
    }
}

impl Env {
    /// From name and value, as `std::env::vars()` gives them.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect(), invalid: Vec::new() }
    }

    /// The value as it stands, also when it is empty.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Text.
    pub fn string(&self, name: &str, default: &str) -> String {
        self.optional_string(name).unwrap_or_else(|| default.to_owned())
    }

    /// Text, if it is set.
    pub fn optional_string(&self, name: &str) -> Option<String> {
        self.raw(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Text that must be there.
    pub fn required(&mut self, name: &str, accepted: &str) -> String {
        let value = self.optional_string(name);
        value.unwrap_or_else(|| {
            self.reject(name, accepted);
            String::new()
        })
    }

    /// `true` or `false`, also `1` and `0`.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.optional_flag(name).unwrap_or(default)
    }

    /// `true` or `false`, if it is set.
    pub fn optional_flag(&mut self, name: &str) -> Option<bool> {
        self.optional(name, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// A duration such as `500ms`, `5s`, `1h30m`.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.optional_duration(name).unwrap_or(default)
    }

    /// A duration, if it is set.
    pub fn optional_duration(&mut self, name: &str) -> Option<Duration> {
        self.optional(name, "a duration such as 500ms, 5s or 1h30m", parse_duration)
    }

    /// A number within bounds.
    pub fn number<N>(&mut self, name: &str, default: N, bounds: RangeInclusive<N>) -> N
    where
        N: FromStr + PartialOrd + Display,
    {
        let accepted = format!("a number from {} to {}", bounds.start(), bounds.end());
        let number =
            self.optional(name, &accepted, |text| text.parse().ok().filter(|number| bounds.contains(number)));
        number.unwrap_or(default)
    }

    /// An IP address, if it is set.
    pub fn ip(&mut self, name: &str) -> Option<IpAddr> {
        self.optional(name, "an IP address", |text| text.parse().ok().map(|ip: IpAddr| ip.to_canonical()))
    }

    /// An IP address and port.
    pub fn address(&mut self, name: &str, default: SocketAddr) -> SocketAddr {
        let accepted = "an address with a port, such as 127.0.0.1:15000 or [::]:15020";
        self.optional(name, accepted, |text| text.parse().ok()).unwrap_or(default)
    }

    /// A path.
    pub fn path(&self, name: &str, default: &str) -> PathBuf {
        self.string(name, default).into()
    }

    /// A path, if it is set.
    pub fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.optional_string(name).map(PathBuf::from)
    }

    /// Items between commas, trimmed, without empty ones; `accepted` says what one item is.
    pub fn list<T>(&mut self, name: &str, accepted: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let accepted = format!("a list, between commas, of {accepted}");
        let items = self.optional(name, &accepted, |text| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(&parse).collect()
        });
        items.unwrap_or_default()
    }

    /// Anything else; `accepted` completes the sentence "must be ...".
    pub fn optional<T>(
        &mut self,
        name: &str,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.raw(name).map(str::trim).filter(|value| !value.is_empty())?);
        if parsed.is_none() {
            self.reject(name, accepted);
        }
        parsed
    }

    /// Variables whose name starts with a prefix, by the rest of their name.
    pub fn with_prefix(&self, prefix: &str) -> BTreeMap<String, String> {
        let matching =
            self.variables.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        matching.map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }

    /// Notes that a variable cannot be used, for rules between several of them.
    pub fn reject(&mut self, name: &str, accepted: &str) {
        let value = self.raw(name).unwrap_or_default().to_owned();
        self.invalid.push(InvalidVariable { name: name.to_owned(), value, accepted: accepted.to_owned() });
    }

    /// To be called when everything was read.
    ///
    /// # Errors
    /// When a variable could not be used: all of them, in the order of reading.
    pub fn finish(self) -> Result<(), InvalidEnvironment> {
        if self.invalid.is_empty() { Ok(()) } else { Err(InvalidEnvironment(self.invalid)) }
    }
}

/// Numbers with units, largest first or not, as Go writes durations: `1h30m`, `1.5s`, `500ms`; and plain `0`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, unit_and_rest) = rest.split_at_checked(digits)?;
        let end =
            unit_and_rest.find(|character: char| character.is_ascii_digit()).unwrap_or(unit_and_rest.len());
        let (unit, next) = unit_and_rest.split_at_checked(end)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests;
