// SPDX-License-Identifier: Apache-2.0
//! Secrets whose values are texts.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    api::Api,
    error::ApiError,
    resource::{Resource, Within},
};

const SECRETS: Resource = Resource::core("secrets");

/// A secret; it never shows its values.
#[derive(Clone)]
pub struct Secret {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its values by their keys; what is no text is left out.
    pub texts: BTreeMap<String, String>,
    /// What else the API server has of it.
    found: Option<Box<v1::Secret>>,
}

impl Secret {
    /// One that is still to be made.
    pub fn new(namespace: &str, name: &str, texts: BTreeMap<String, String>) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), texts, found: None }
    }

    /// The secret of a name, if there is one.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub async fn find(api: &Api, namespace: &str, name: &str) -> Result<Option<Self>, ApiError> {
        let found: Option<v1::Secret> = api.find(&SECRETS.object(namespace, name)).await?;
        Ok(found.map(|secret| {
            let data = secret.data.iter().flatten();
            let texts =
                data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)));
            Self { found: Some(Box::new(secret.clone())), ..Self::new(namespace, name, texts.collect()) }
        }))
    }

    /// Makes it.
    ///
    /// # Errors
    /// When it is refused; with a conflict when there is one of the name.
    pub async fn create(&self, api: &Api) -> Result<(), ApiError> {
        let path = SECRETS.path(&Within::Namespace(self.namespace.clone()));
        api.create(&path, &self.object()).await.map(drop)
    }

    /// Puts it in place of the one that was found.
    ///
    /// # Errors
    /// When it is refused; with a conflict when it has changed since.
    pub async fn replace(&self, api: &Api) -> Result<(), ApiError> {
        let path = SECRETS.object(&self.namespace, &self.name);
        api.replace(&path, &self.object()).await.map(drop)
    }

    fn object(&self) -> v1::Secret {
        let mut secret = match &self.found {
            Some(found) => (**found).clone(),
            None => v1::Secret {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                type_: Some("Opaque".to_owned()),
                ..v1::Secret::default()
            },
        };
        let bytes = |(key, text): (&String, &String)| (key.clone(), ByteString(text.clone().into_bytes()));
        secret.data = Some(self.texts.iter().map(bytes).collect());
        secret
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}
