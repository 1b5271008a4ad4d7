// SPDX-License-Identifier: Apache-2.0
//! ConfigMaps with overlays: those with defaults for a class, which are watched, and those that Gateways name, which are
//! read from time to time.

use std::collections::BTreeMap;

use kubernetes::{Api, ApiError, Resource};
use serde::Deserialize;

use super::name;
use crate::{
    deploy::{Fault, Overlays, Source},
    objects::Gateway,
    world::Name,
};

pub(super) const MAPS: Resource = Resource::core("configmaps");
const FIELD: &str = "spec.infrastructure.parametersRef";

/// Why overlays are not known.
pub(super) enum Unread {
    /// The Gateway names something that is none.
    Fault(Fault),
    /// They cannot be read now.
    Later(ApiError),
}

#[derive(Deserialize)]
struct Map {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// By the name of the ConfigMap: class and content.
    defaults: BTreeMap<String, (String, Source)>,
    /// Of Gateways, by the ConfigMap's namespace and name.
    own: BTreeMap<Name, Option<Source>>,
}

impl Maps {
    pub(super) fn set(
        &mut self,
        name: String,
        class: String,
        namespace: String,
        data: BTreeMap<String, String>,
    ) {
        let source = Source { name: format!("{namespace}/{name}"), data };
        self.defaults.insert(name, (class, source));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.defaults.remove(name);
    }

    /// What was read may be old.
    pub(super) fn forget(&mut self) {
        self.own.clear();
    }

    /// Those of a Gateway: its class's, and then its own.
    pub(super) async fn overlays(&mut self, api: &Api, gateway: &Gateway) -> Result<Overlays, Unread> {
        let class = gateway.spec.gateway_class_name.as_str();
        let defaults = self.defaults.values().filter(|(of, _)| of == class);
        let mut sources: Vec<Source> = defaults.map(|(_, source)| source.clone()).collect();
        if let Some(reference) = &gateway.spec.infrastructure.parameters_ref {
            if reference.kind != "ConfigMap" || !reference.group.is_empty() {
                let message = format!("{} is no ConfigMap of the core group", reference.kind);
                return Err(Unread::Fault(Fault { place: FIELD.to_owned(), message }));
            }
            let map = (name(gateway).0, reference.name.clone());
            match self.own(api, &map).await.map_err(Unread::Later)? {
                Some(source) => sources.push(source),
                None => {
                    let message = format!("there is no ConfigMap {}/{}", map.0, map.1);
                    return Err(Unread::Fault(Fault { place: FIELD.to_owned(), message }));
                }
            }
        }
        Ok(Overlays(sources))
    }

    async fn own(&mut self, api: &Api, name: &Name) -> Result<Option<Source>, ApiError> {
        if let Some(known) = self.own.get(name) {
            return Ok(known.clone());
        }
        let found: Option<Map> = api.find(&MAPS.object(&name.0, &name.1)).await?;
        let source = found.map(|Map { data }| Source { name: format!("{}/{}", name.0, name.1), data });
        self.own.insert(name.clone(), source.clone());
        Ok(source)
    }
}
