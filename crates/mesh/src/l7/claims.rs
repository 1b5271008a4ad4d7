// SPDX-License-Identifier: Apache-2.0
//! What a valid token says, as conditions look at it. It knows no signature and no JSON.

use std::collections::BTreeMap;

use arcstr::ArcStr;

/// One claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A text.
    Text(ArcStr),
    /// Numbers, true, false and null, as they are written; conditions on texts never hold of them.
    Other(ArcStr),
    /// Several.
    List(Vec<Self>),
    /// Named ones.
    Map(BTreeMap<ArcStr, Self>),
}

/// All claims of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    all: BTreeMap<ArcStr, Claim>,
    principal: Option<String>,
    /// Names of claims that are lists of words.
    words: Vec<ArcStr>,
}

/// Claims that are words with spaces between them, whatever a rule says of others (RFC 8693 §4.2).
const WORDS: [ArcStr; 2] = [arcstr::literal!("scope"), arcstr::literal!("permission")];

impl Claims {
    /// Of these claims; those named in `words` are texts of words with spaces between them.
    pub fn new(all: BTreeMap<ArcStr, Claim>, words: &[ArcStr]) -> Self {
        let text = |name: &str| match all.get(name) {
            Some(Claim::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}"));
        Self { principal, words: words.iter().chain(&WORDS).cloned().collect(), all }
    }

    /// `<iss>/<sub>`, where it has both.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The claim at a path.
    pub fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Claim> {
        let (first, rest) = path.split_first()?;
        let mut found = self.all.get(first.as_ref())?;
        for name in rest {
            let Claim::Map(inner) = found else { return None };
            found = inner.get(name.as_ref())?;
        }
        Some(found)
    }

    /// Whether the claim at a path is a text that fits, or a list with one.
    pub fn has<S: AsRef<str>>(&self, path: &[S], fits: impl Fn(&str) -> bool) -> bool {
        match self.at(path) {
            Some(Claim::Text(text)) => {
                let has_words =
                    matches!(path, [only] if self.words.iter().any(|name| *name == only.as_ref()));
                fits(text) || (has_words && text.split(' ').any(fits))
            }
            Some(Claim::List(list)) => {
                list.iter().any(|claim| matches!(claim, Claim::Text(text) if fits(text)))
            }
            Some(Claim::Other(_) | Claim::Map(_)) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_path_in_texts_lists_and_words() {
        let text = |text: &str| Claim::Text(text.into());
        let inner =
            BTreeMap::from([("roles".into(), Claim::List(vec![text("admin"), Claim::Other("1".into())]))]);
        let all = BTreeMap::from([
            ("iss".into(), text("i")),
            ("sub".into(), text("s")),
            ("scope".into(), text("read write")),
            ("groups".into(), text("a b")),
            ("realm".into(), Claim::Map(inner)),
        ]);
        let claims = Claims::new(all.clone(), &[]);
        let has = |path: &[&str], value: &str| claims.has(path, |text| text == value);
        assert_eq!(claims.principal(), Some("i/s"));
        assert!(has(&["scope"], "write") && has(&["scope"], "read write") && !has(&["scope"], "writ"));
        assert!(
            !has(&["groups"], "a")
                && Claims::new(all, &["groups".into()]).has(&["groups"], |text| text == "a")
        );
        assert!(has(&["realm", "roles"], "admin") && !has(&["realm", "roles"], "1"));
        assert!(!has(&["realm"], "roles") && !has(&["realm", "roles", "admin"], "admin") && !has(&[], "i"));
    }
}
