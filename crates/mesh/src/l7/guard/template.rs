// SPDX-License-Identifier: Apache-2.0
//! Templates of paths: `/orders/{*}/items` and `/files/{**}`.

use std::fmt;

use arcstr::ArcStr;

/// `{*}` stands for one element that is not empty, `{**}` for any number of characters with their slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: ArcStr,
    /// Elements before `{**}`, or all.
    head: Vec<Element>,
    /// Elements after `{**}`, where there is one.
    tail: Option<Vec<Element>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    Text(ArcStr),
    Any,
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no template of paths: {reason}")]
pub struct InvalidTemplate {
    /// The template.
    pub text: String,
    /// Why not.
    pub reason: &'static str,
}

impl Template {
    /// Whether a text is meant as one.
    pub fn is_one(text: &str) -> bool {
        text.contains("{*}") || text.contains("{**}")
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it does not begin with a slash, an operator is not a whole element, or one comes after `{**}`.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |reason| InvalidTemplate { text: text.to_owned(), reason };
        let Some(rest) = text.strip_prefix('/') else { return Err(invalid("it must begin with a slash")) };
        let (mut head, mut tail) = (Vec::new(), None::<Vec<Element>>);
        for part in rest.split('/') {
            let element = match part {
                "{**}" if tail.is_none() => {
                    tail = Some(Vec::new());
                    continue;
                }
                "{*}" | "{**}" if tail.is_some() => {
                    return Err(invalid("no operator may come after {**}"));
                }
                "{*}" => Element::Any,
                other if other.contains(['{', '}', '*']) => {
                    return Err(invalid(
                        "{*} and {**} must each be a whole element, and * stands in nothing else",
                    ));
                }
                other => Element::Text(other.into()),
            };
            tail.as_mut().unwrap_or(&mut head).push(element);
        }
        Ok(Self { text: text.into(), head, tail })
    }

    /// Whether a path fits.
    pub fn is_match(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let parts: Vec<&str> = rest.split('/').collect();
        let Some(tail) = &self.tail else {
            return parts.len() == self.head.len() && fits(&self.head, &parts);
        };
        // What {**} stands for has at least one piece, which may be empty.
        let Some(middle) = parts.len().checked_sub(self.head.len() + tail.len()) else { return false };
        let (first, last) = (parts.get(..self.head.len()), parts.get(self.head.len() + middle..));
        middle > 0
            && first.is_some_and(|parts| fits(&self.head, parts))
            && last.is_some_and(|parts| fits(tail, parts))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn fits(elements: &[Element], parts: &[&str]) -> bool {
    elements.iter().zip(parts).all(|(element, part)| match element {
        Element::Text(text) => text == part,
        Element::Any => !part.is_empty(),
    })
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_stands_for_one_element_or_for_the_rest() {
        let cases = [
            ("/a/{*}", &["/a/b", "/a/%2e"][..], &["/a", "/a/", "/a/b/", "/a/b/c", "/b/b"][..]),
            ("/{*}/b", &["/a/b", "/x/b"], &["/b", "//b", "/a/c", "/a/b/b"]),
            ("/a/{**}", &["/a/", "/a/b", "/a/b/c", "/a/b/"], &["/a", "/ab", "/b/a/"]),
            ("/a/{**}/z", &["/a/b/z", "/a//z", "/a/b/c/z"], &["/a/z", "/a/b/z/", "/a/b"]),
            ("/{*}/b/{**}", &["/x/b/", "/x/b/c/d"], &["/b/", "//b/", "/x/c/d"]),
            ("/{**}", &["/", "/a", "/a/b"], &[""]),
        ];
        for (text, fitting, others) in cases {
            let template = Template::parse(text).unwrap();
            assert!(Template::is_one(text) && template.as_str() == text);
            for path in fitting {
                assert!(template.is_match(path), "{text} {path}");
            }
            for path in others {
                assert!(!template.is_match(path), "{text} {path}");
            }
        }
    }

    #[test]
    fn what_an_operator_shares_its_element_with_is_refused() {
        for text in ["a/{*}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{*}/*", "/{name}/{*}", "/{*"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
