// SPDX-License-Identifier: Apache-2.0
//! The programs of a generation: the shared ones, verified once and reached by tail call, and the small ones that each
//! pod gets with its identity in their code.

use std::{borrow::Cow, fs};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError, ProgramArray},
    pin::PinError as AyaPinError,
    programs::{ProgramError, SchedClassifier},
};
use ebpf_abi::{
    Hook,
    map::{
        CAPTURED, CLAIMS, COUNTS, HOOKS, Identity, LISTENERS, NETWORKS, OWN, PODS, PORTS, PROBES, QUESTIONS,
        TRUST_MARK,
    },
};

use crate::{object::Template, pins::Pins};

/// Shared programs, by what tail-calls them.
const SHARED: [(&str, Hook); 3] =
    [("ingress", Hook::Ingress), ("loopback", Hook::Loopback), ("egress", Hook::Egress)];
const MAPS: [&str; 11] =
    [PODS, OWN, NETWORKS, PORTS, LISTENERS, COUNTS, QUESTIONS, PROBES, HOOKS, CLAIMS, CAPTURED];

/// Loads the programs of one generation.
#[derive(Debug)]
pub(crate) struct Programs {
    template: Template,
    loader: EbpfLoader<'static>,
}

/// Why programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The object cannot be read, or a map cannot be made.
    #[error("cannot prepare the programs and their maps")]
    Prepare(#[source] Box<EbpfError>),
    /// The kernel refused a program.
    #[error("the kernel refuses the program {program}")]
    Refused {
        /// Which.
        program: &'static str,
        /// The verifier's words.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object has no such program, or it is of another kind.
    #[error("the object lacks the program {program}")]
    Lacking {
        /// Which.
        program: &'static str,
    },
    /// The shared programs cannot be reached.
    #[error("cannot enter the program {program} into its map")]
    Enter {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// A program could not be pinned.
    #[error("cannot pin the program {program}")]
    Pin {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<AyaPinError>,
    },
}

impl Programs {
    /// Makes the loader of a generation. It reads the types of the running kernel, once.
    pub(crate) fn new(template: Template, pins: &Pins, trust_mark: bool) -> Self {
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, Cow::Owned(pins.map(name)));
        }
        let trust: &'static u32 = if trust_mark { &1 } else { &0 };
        loader.override_global(TRUST_MARK, trust, true);
        Self { template, loader }
    }

    /// Whether the shared programs of a generation are in place.
    pub(crate) fn are_shared(pins: &Pins) -> bool {
        SHARED.iter().all(|(name, _hook)| fs::exists(pins.program(name)).unwrap_or_default())
    }

    /// Loads the shared programs and their maps, and pins both. Programs that an earlier try left are replaced.
    pub(crate) fn share(&mut self, pins: &Pins) -> Result<(), ProgramsError> {
        let mut ebpf = self.prepare(None)?;
        for (name, _hook) in SHARED {
            load(&mut ebpf, name)?;
        }
        let lacking = |_error| ProgramsError::Lacking { program: HOOKS };
        let hooks = ebpf.take_map(HOOKS).ok_or(ProgramsError::Lacking { program: HOOKS })?;
        let mut hooks = ProgramArray::try_from(hooks).map_err(lacking)?;
        for (name, hook) in SHARED {
            enter(&mut hooks, classifier(&mut ebpf, name)?, name, hook)?;
        }
        for (name, _hook) in SHARED {
            // A pin of an earlier try; the new one says what is in force.
            let path = pins.program(name);
            if fs::exists(&path).unwrap_or_default() {
                fs::remove_file(&path).unwrap_or_default();
            }
            let program = classifier(&mut ebpf, name)?;
            program
                .pin(path)
                .map_err(|source| ProgramsError::Pin { program: name, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// Prepares the programs of one pod; nothing of it is in the kernel's hands before it is loaded.
    pub(crate) fn of_pod(&mut self, identity: Identity) -> Result<Ebpf, ProgramsError> {
        self.prepare(Some(identity))
    }

    /// Prepares the programs that are no pod's.
    pub(crate) fn of_node(&mut self) -> Result<Ebpf, ProgramsError> {
        self.prepare(None)
    }

    fn prepare(&mut self, identity: Option<Identity>) -> Result<Ebpf, ProgramsError> {
        let bytes = match identity {
            Some(identity) => Cow::Owned(self.template.identified(identity)),
            None => Cow::Borrowed(self.template.bytes()),
        };
        self.loader.load(&bytes).map_err(|source| ProgramsError::Prepare(Box::new(source)))
    }
}

/// A program for an interface, loaded.
pub(crate) fn load<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramsError> {
    let program = classifier(ebpf, name)?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(source) => Err(ProgramsError::Refused { program: name, source: Box::new(source) }),
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, ProgramsError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(ProgramsError::Lacking { program: name })
}

fn enter(
    hooks: &mut ProgramArray<MapData>,
    program: &SchedClassifier,
    name: &'static str,
    hook: Hook,
) -> Result<(), ProgramsError> {
    let fd =
        program.fd().map_err(|source| ProgramsError::Refused { program: name, source: Box::new(source) })?;
    hooks
        .set(hook as u32, fd, 0)
        .map_err(|source| ProgramsError::Enter { program: name, source: Box::new(source) })
}
