// SPDX-License-Identifier: Apache-2.0
//! One form of a path for whoever looks at it: policies, routes and the server must not read it differently.
//!
//! Nothing is decoded that the server would decode again to something else: what comes out stays as it is when it is
//! normalised once more.

use std::borrow::Cow;

use mesh::l7::guard::Normalisation;

/// The path, without its query, in its one form.
///
/// # Errors
/// When no form of it is safe: it has a NUL.
pub fn normalise(path: &str, how: Normalisation) -> Result<Cow<'_, str>, &'static str> {
    if how == Normalisation::Nothing || !path.starts_with('/') {
        return Ok(Cow::Borrowed(path));
    }
    let is_plain = !path.bytes().any(|byte| matches!(byte, b'%' | b'\\'))
        && !path.contains("/.")
        && (how == Normalisation::Base || !path.contains("//"));
    if is_plain {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path, how)?;
    let resolved = resolve(&decoded);
    let merged = if how == Normalisation::Base { resolved } else { merge(&resolved) };
    Ok(Cow::Owned(merged))
}

/// Writes plainly what needs no escape, and `\` as `/`.
fn decode(path: &str, how: Normalisation) -> Result<String, &'static str> {
    let mut decoded = String::with_capacity(path.len());
    // Where the last percent sign stands that begins no escape: what follows must not make it one.
    let mut stray = None;
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        let (plain, special) = rest.split_at(at);
        decoded.push_str(plain);
        let Some(byte) = escaped(special) else {
            if special.starts_with('\\') {
                decoded.push('/');
            } else {
                stray = Some(decoded.len());
                decoded.push('%');
            }
            rest = special.get(1..).unwrap_or_default();
            continue;
        };
        let escape = special.get(..3).unwrap_or_default();
        rest = special.get(3..).unwrap_or_default();
        let is_close = stray.is_some_and(|stray: usize| decoded.len() - stray <= 2);
        match byte {
            0 => return Err("the path has a NUL"),
            b'/' | b'\\' if how == Normalisation::DecodeAndMergeSlashes => decoded.push('/'),
            b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() && !(is_close && byte.is_ascii_hexdigit()) => {
                decoded.push(char::from(byte));
            }
            _ => decoded.push_str(escape),
        }
    }
    decoded.push_str(rest);
    Ok(decoded)
}

/// The byte that an escape stands for, where a text begins with one.
fn escaped(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Without `.` and `..` (RFC 3986 §5.2.4).
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut elements = path.split('/').skip(1).peekable();
    while let Some(element) = elements.next() {
        let is_last = elements.peek().is_none();
        match element {
            "." | ".." => {
                if element == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for element in &kept {
        resolved.push('/');
        resolved.push_str(element);
    }
    if resolved.is_empty() { "/".to_owned() } else { resolved }
}

fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Normalisation; 4] = [
        Normalisation::Nothing,
        Normalisation::Base,
        Normalisation::MergeSlashes,
        Normalisation::DecodeAndMergeSlashes,
    ];

    /// Path, and what it is under `BASE`, `MERGE_SLASHES` and `DECODE_AND_MERGE_SLASHES`.
    const TABLE: [(&str, &str, &str, &str); 32] = [
        ("/", "/", "/", "/"),
        ("/admin", "/admin", "/admin", "/admin"),
        ("/admin/", "/admin/", "/admin/", "/admin/"),
        ("/a/../admin", "/admin", "/admin", "/admin"),
        ("/a/./b", "/a/b", "/a/b", "/a/b"),
        ("/a/b/..", "/a/", "/a/", "/a/"),
        ("/a/b/.", "/a/b/", "/a/b/", "/a/b/"),
        ("/..", "/", "/", "/"),
        ("/../../admin", "/admin", "/admin", "/admin"),
        ("/.", "/", "/", "/"),
        ("/...", "/...", "/...", "/..."),
        ("/.hidden", "/.hidden", "/.hidden", "/.hidden"),
        ("/%61dmin", "/admin", "/admin", "/admin"),
        ("/%41dmin", "/Admin", "/Admin", "/Admin"),
        ("/a/%2e%2e/admin", "/admin", "/admin", "/admin"),
        ("/a/%2E%2e/admin", "/admin", "/admin", "/admin"),
        ("/a/.%2e/admin", "/admin", "/admin", "/admin"),
        ("/a\\b", "/a/b", "/a/b", "/a/b"),
        ("/a\\..\\admin", "/admin", "/admin", "/admin"),
        ("//admin", "//admin", "/admin", "/admin"),
        ("/a///b", "/a///b", "/a/b", "/a/b"),
        ("/a//../b", "/a/b", "/a/b", "/a/b"),
        ("/a%2fb", "/a%2fb", "/a%2fb", "/a/b"),
        ("/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b"),
        ("/a%5cb", "/a%5cb", "/a%5cb", "/a/b"),
        ("/a%2f..%2fadmin", "/a%2f..%2fadmin", "/a%2f..%2fadmin", "/admin"),
        ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
        ("/a/%252e%252e/b", "/a/%252e%252e/b", "/a/%252e%252e/b", "/a/%252e%252e/b"),
        ("/a%20b", "/a%20b", "/a%20b", "/a%20b"),
        ("/100%", "/100%", "/100%", "/100%"),
        ("/%%36%31dmin", "/%%361dmin", "/%%361dmin", "/%%361dmin"),
        ("/a;x=1/../b", "/b", "/b", "/b"),
    ];

    #[test]
    fn a_path_has_one_form() {
        for (path, base, merged, decoded) in TABLE {
            for (how, expected) in ALL.into_iter().zip([path, base, merged, decoded]) {
                assert_eq!(normalise(path, how).as_deref(), Ok(expected), "{path} {how}");
            }
        }
    }

    #[test]
    fn what_is_no_path_of_an_origin_is_left_alone_and_a_nul_is_refused() {
        for how in ALL {
            assert_eq!(normalise("*", how).as_deref(), Ok("*"));
            assert_eq!(normalise("", how).as_deref(), Ok(""));
            assert_eq!(normalise("/a%00b", how).is_err(), how != Normalisation::Nothing, "{how}");
            assert_eq!(how.to_string().parse(), Ok(how));
        }
    }

    proptest! {
        #[test]
        fn what_is_normalised_stays_as_it_is(path in "/([a-f0-9.%/\\\\]|%[0-9a-f]{2}){0,12}") {
            for how in ALL {
                if let Ok(once) = normalise(&path, how) {
                    let again = normalise(&once, how);
                    prop_assert_eq!(again.as_deref(), Ok(once.as_ref()));
                }
            }
        }

        #[test]
        fn no_element_is_left_that_leads_elsewhere(path in "/([a.%/\\\\]|%2[eEfF]|%5[cC]){0,12}") {
            if let Ok(found) = normalise(&path, Normalisation::DecodeAndMergeSlashes) {
                prop_assert!(found.split('/').all(|element| element != "." && element != ".."), "{found}");
                prop_assert!(!found.contains("//") && !found.contains('\\'), "{found}");
            }
        }
    }
}
