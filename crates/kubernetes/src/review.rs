// SPDX-License-Identifier: Apache-2.0
//! Whose token it is, by `TokenReview`: the API server looks at the signature, the end, and whether the pod and the
//! service account that the token is bound to are still the same.

use k8s_openapi::{
    api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    api::Api,
    error::ApiError,
    resource::{Resource, Within},
};

const REVIEWS: Resource = Resource::new("authentication.k8s.io", "v1", "tokenreviews");
const PREFIX: &str = "system:serviceaccount:";
const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A service account, and what its token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node that the token's pod was placed on (Kubernetes 1.30 and later).
    pub node: Option<String>,
    /// Name and UID of the pod that the token is bound to.
    pub pod: Option<(String, String)>,
}

/// Why a token shows nobody.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not know it.
    #[error("the token is not valid: {reason}")]
    Invalid {
        /// The API server's words.
        reason: String,
    },
    /// It is for somebody else.
    #[error("the token is not meant for {audience}")]
    Audience {
        /// Who we are.
        audience: String,
    },
    /// It is no service account's.
    #[error("the token is of {user}, which is no service account")]
    NoServiceAccount {
        /// Whose it is.
        user: String,
    },
    /// Nobody has judged it.
    #[error("the API server did not judge the token")]
    Api(#[source] ApiError),
}

/// Asks the API server whose token it is.
///
/// # Errors
/// When it is of no service account, not for this audience, or nobody can tell.
pub async fn review(api: &Api, token: &str, audience: &str) -> Result<Account, ReviewError> {
    let question = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: Some(token.to_owned()) },
        status: None,
    };
    let path = REVIEWS.path(&Within::Cluster);
    let answer = api.create(&path, &question).await.map_err(ReviewError::Api)?;
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        let reason = status.error.filter(|text| !text.is_empty());
        return Err(ReviewError::Invalid { reason: reason.unwrap_or_else(|| "it is not known".to_owned()) });
    }
    // A server that knows no audiences says none: then the token may be for anybody.
    if !status.audiences.unwrap_or_default().iter().any(|named| named == audience) {
        return Err(ReviewError::Audience { audience: audience.to_owned() });
    }
    account(status.user.unwrap_or_default())
}

fn account(user: UserInfo) -> Result<Account, ReviewError> {
    let username = user.username.unwrap_or_default();
    let named = username.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
    let Some((namespace, name)) = named.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        return Err(ReviewError::NoServiceAccount { user: username });
    };
    let extra = user.extra.unwrap_or_default();
    let only = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Ok(Account {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: only(NODE),
        pod: only(POD).zip(only(POD_UID)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_known_by_its_user_name_and_a_node_only_when_there_is_one() {
        let user = |name: &str, nodes: &[&str]| UserInfo {
            username: Some(name.to_owned()),
            extra: Some([(NODE.to_owned(), nodes.iter().map(|node| (*node).to_owned()).collect())].into()),
            ..UserInfo::default()
        };
        let known = account(user("system:serviceaccount:shop:cart", &["a"])).unwrap();
        assert_eq!((known.namespace.as_str(), known.name.as_str()), ("shop", "cart"));
        assert_eq!(known.node.as_deref(), Some("a"));
        assert_eq!(account(user("system:serviceaccount:shop:cart", &["a", "b"])).unwrap().node, None);
        for other in ["admin", "system:node:a", "system:serviceaccount:shop", "system:serviceaccount::x"] {
            assert!(
                matches!(account(user(other, &[])), Err(ReviewError::NoServiceAccount { .. })),
                "{other}"
            );
        }
    }
}
