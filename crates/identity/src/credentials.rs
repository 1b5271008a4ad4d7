// SPDX-License-Identifier: Apache-2.0
//! Who this process says it is to the control plane: a bearer token and some headers, on every call.

use std::{fmt, fs, io, path::PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Where the token is.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// In a file that is read again at each call: the kubelet renews it.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

/// Headers of every call; cheap enough to make for each.
#[derive(Clone, Debug)]
pub struct Credentials {
    token: Option<Token>,
    fixed: HeaderMap,
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the token from {}", .path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The token is empty or has characters that a header must not have.
    #[error("the token cannot be sent in a header")]
    Token,
    /// A header's name or value is not one.
    #[error("invalid header {name:?}")]
    Header {
        /// Its name.
        name: String,
    },
}

impl Credentials {
    /// From the token, if there is one, the name of the cluster and further headers.
    ///
    /// # Errors
    /// When a header's name or value is not one.
    pub fn new<'text>(
        token: Option<Token>,
        cluster: &'text str,
        headers: impl IntoIterator<Item = (&'text str, &'text str)>,
    ) -> Result<Self, CredentialsError> {
        let mut fixed = HeaderMap::new();
        for (name, value) in headers.into_iter().chain([("clusterid", cluster)]) {
            let (Ok(header), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) else {
                return Err(CredentialsError::Header { name: name.to_owned() });
            };
            fixed.insert(header, value);
        }
        Ok(Self { token, fixed })
    }

    /// The headers for one call: `authorization`, `clusterid` and the further ones.
    ///
    /// # Errors
    /// When the token cannot be read or sent.
    pub fn headers(&self) -> Result<HeaderMap, CredentialsError> {
        let mut headers = self.fixed.clone();
        if let Some(token) = &self.token {
            let token = token.read()?;
            let token = token.trim();
            if token.is_empty() {
                return Err(CredentialsError::Token);
            }
            let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) else {
                return Err(CredentialsError::Token);
            };
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

impl Token {
    /// The token as it is now.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn read(&self) -> Result<String, CredentialsError> {
        match self {
            Self::File(path) => fs::read_to_string(path)
                .map_err(|source| CredentialsError::Read { path: path.clone(), source }),
            Self::Literal(token) => Ok(token.clone()),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.write_str("Literal(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_token_file_is_seen_by_the_next_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let credentials =
            Credentials::new(Some(Token::File(path.clone())), "Kubernetes", [("x-extra", "1")]).unwrap();
        assert!(matches!(credentials.headers(), Err(CredentialsError::Read { .. })), "no file yet");
        for token in ["first", "second"] {
            fs::write(&path, format!("{token}\n")).unwrap();
            let headers = credentials.headers().unwrap();
            assert_eq!(headers["authorization"], format!("Bearer {token}"));
            assert_eq!(headers["clusterid"], "Kubernetes");
            assert_eq!(headers["x-extra"], "1");
        }
        fs::write(&path, "\n").unwrap();
        assert!(matches!(credentials.headers(), Err(CredentialsError::Token)));
    }

    #[test]
    fn a_token_is_never_printed() {
        let credentials =
            Credentials::new(Some(Token::Literal("secret".to_owned())), "Kubernetes", []).unwrap();
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(!format!("{:?}", credentials.headers().unwrap()).contains("secret"));
    }
}
