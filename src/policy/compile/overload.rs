//! Which types convert into which, and which of several functions or operators is meant.
//!
//! Follows the Postgres manual, "Type Conversion".

use std::sync::Arc;

use crate::policy::schema::{Function, Operator, Schema};
use crate::policy::value::{Kind, Oid, oid};

/// In which circumstances a conversion is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Context {
    Implicit,
    Assignment,
    Explicit,
}

/// How a value gets from one type to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Relabel,
    Function(Oid),
    TextForm,
    Elements(Box<Self>),
}

pub(super) const fn is_polymorphic(type_oid: Oid) -> bool {
    matches!(
        type_oid,
        oid::ANYELEMENT
            | oid::ANYARRAY
            | oid::ANYNONARRAY
            | oid::ANYENUM
            | oid::ANYRANGE
            | oid::ANYCOMPATIBLE
            | oid::ANYCOMPATIBLEARRAY
            | oid::ANYCOMPATIBLENONARRAY
            | oid::ANYCOMPATIBLERANGE
    )
}

/// `"any"`
const ANY: Oid = 2276;

impl Schema {
    pub(super) fn category(&self, type_oid: Oid) -> u8 {
        self.types
            .find(type_oid)
            .map_or(b'X', |found| found.category)
    }

    fn preferred(&self, category: u8, type_oid: Oid) -> bool {
        self.types
            .find(type_oid)
            .is_some_and(|found| found.category == category && found.preferred)
    }

    pub(super) fn is_composite(&self, type_oid: Oid) -> bool {
        matches!(
            self.types
                .find(self.types.base(type_oid))
                .map(|found| &found.kind),
            Some(Kind::Composite { .. })
        )
    }

    fn is_enum(&self, type_oid: Oid) -> bool {
        matches!(
            self.types
                .find(self.types.base(type_oid))
                .map(|found| &found.kind),
            Some(Kind::Enum { .. })
        )
    }

    /// The conversion between two types, if there is one.
    pub(super) fn path(&self, from: Oid, to: Oid, context: Context) -> Option<Path> {
        let (from, to) = (self.types.base(from), self.types.base(to));
        if from == to {
            return Some(Path::Relabel);
        }
        if let Some(cast) = self.casts.get(&(from, to)) {
            let least = match cast.context {
                b'i' => Context::Implicit,
                b'a' => Context::Assignment,
                _ => Context::Explicit,
            };
            if context < least {
                return None;
            }
            return Some(match cast.method {
                b'f' => Path::Function(cast.function),
                b'i' => Path::TextForm,
                _ => Path::Relabel,
            });
        }
        if let (Some(from), Some(to)) = (self.types.element(from), self.types.element(to)) {
            let path = self.path(from, to, context)?;
            return Some(match path {
                Path::Relabel => Path::Relabel,
                other => Path::Elements(Box::new(other)),
            });
        }
        let text_form = (context >= Context::Assignment && self.category(to) == b'S')
            || (context >= Context::Explicit && self.category(from) == b'S');
        text_form.then_some(Path::TextForm)
    }

    pub(super) fn can_coerce(&self, from: Oid, to: Oid, context: Context) -> bool {
        if from == to || to == ANY || from == oid::UNKNOWN {
            return true;
        }
        match to {
            oid::ANYELEMENT | oid::ANYCOMPATIBLE => return true,
            oid::ANYARRAY | oid::ANYCOMPATIBLEARRAY => return self.types.element(from).is_some(),
            oid::ANYNONARRAY | oid::ANYCOMPATIBLENONARRAY => {
                return self.types.element(from).is_none();
            }
            oid::ANYENUM => return self.is_enum(from),
            oid::ANYRANGE | oid::ANYCOMPATIBLERANGE => return false,
            oid::RECORD => return self.is_composite(from),
            _ => {}
        }
        self.path(from, to, context).is_some()
    }

    /// The type that values of several types have in common, as in CASE, UNION or ARRAY.
    pub(super) fn common_type(&self, types: &[Oid]) -> Option<Oid> {
        let mut known = types.iter().copied().filter(|found| *found != oid::UNKNOWN);
        let Some(first) = known.next() else {
            return Some(oid::TEXT);
        };
        if types.iter().all(|found| *found == first) {
            return Some(first);
        }
        let mut chosen = self.types.base(first);
        for next in known.map(|next| self.types.base(next)) {
            if next == chosen {
                continue;
            }
            let category = self.category(chosen);
            if self.category(next) != category {
                return None;
            }
            if !self.preferred(category, chosen)
                && self.can_coerce(chosen, next, Context::Implicit)
                && !self.can_coerce(next, chosen, Context::Implicit)
            {
                chosen = next;
            }
        }
        types
            .iter()
            .all(|found| self.can_coerce(*found, chosen, Context::Implicit))
            .then_some(chosen)
    }

    /// The operator that is meant, among those of the schemas given in order.
    pub(super) fn find_operator(
        &self,
        name: &str,
        left: Option<Oid>,
        right: Oid,
        schemas: &[Box<str>],
    ) -> Option<Arc<Operator>> {
        let mut candidates: Vec<&Arc<Operator>> = Vec::new();
        for schema in schemas {
            let here = self.operators.get(name).into_iter().flatten();
            for operator in
                here.filter(|found| found.schema == *schema && (found.left == 0) == left.is_none())
            {
                let shadowed = candidates
                    .iter()
                    .any(|other| other.left == operator.left && other.right == operator.right);
                if !shadowed {
                    candidates.push(operator);
                }
            }
        }
        let exact = |wanted_left: Oid, wanted_right: Oid| {
            candidates
                .iter()
                .find(|found| found.left == wanted_left && found.right == wanted_right)
                .map(|found| Arc::clone(found))
        };
        let Some(left) = left else {
            if let Some(found) = exact(0, right) {
                return Some(found);
            }
            let signatures: Vec<Vec<Oid>> =
                candidates.iter().map(|found| vec![found.right]).collect();
            let chosen = self.select(&[right], &signatures)?;
            return candidates.get(chosen).map(|found| Arc::clone(found));
        };
        let (first, second) = match (left, right) {
            (oid::UNKNOWN, other) if other != oid::UNKNOWN => (other, other),
            (other, oid::UNKNOWN) if other != oid::UNKNOWN => (other, other),
            both => both,
        };
        if let Some(found) = exact(first, second) {
            return Some(found);
        }
        if left == oid::UNKNOWN || right == oid::UNKNOWN {
            let base = self.types.base(first);
            if let Some(found) = exact(base, base).filter(|_| base != first) {
                return Some(found);
            }
        }
        let signatures: Vec<Vec<Oid>> = candidates
            .iter()
            .map(|found| vec![found.left, found.right])
            .collect();
        let chosen = self.select(&[left, right], &signatures)?;
        candidates.get(chosen).map(|found| Arc::clone(found))
    }

    /// Which of several signatures suits the types of the arguments; `None` if none or several do.
    pub(super) fn select(&self, given: &[Oid], signatures: &[Vec<Oid>]) -> Option<usize> {
        let mut left: Vec<usize> = (0..signatures.len())
            .filter(|index| {
                signatures.get(*index).is_some_and(|signature| {
                    signature.len() == given.len()
                        && given
                            .iter()
                            .zip(signature)
                            .all(|(from, to)| self.can_coerce(*from, *to, Context::Implicit))
                })
            })
            .collect();
        if let [only] = left.as_slice() {
            return Some(*only);
        }
        let bases: Vec<Oid> = given.iter().map(|found| self.types.base(*found)).collect();
        let slot = |index: usize, place: usize| -> Oid {
            signatures
                .get(index)
                .and_then(|found| found.get(place))
                .copied()
                .unwrap_or(0)
        };
        let keep_best = |left: &mut Vec<usize>, score: &dyn Fn(usize) -> usize| {
            let best = left.iter().map(|index| score(*index)).max().unwrap_or(0);
            left.retain(|index| score(*index) == best);
        };
        let known: Vec<(usize, Oid)> = bases
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, base)| *base != oid::UNKNOWN)
            .collect();
        keep_best(&mut left, &|index| {
            known
                .iter()
                .filter(|(place, base)| slot(index, *place) == *base)
                .count()
        });
        if let [only] = left.as_slice() {
            return Some(*only);
        }
        keep_best(&mut left, &|index| {
            known
                .iter()
                .filter(|(place, base)| {
                    let to = slot(index, *place);
                    to == *base || self.preferred(self.category(*base), to)
                })
                .count()
        });
        if let [only] = left.as_slice() {
            return Some(*only);
        }
        if known.len() == bases.len() {
            return None;
        }
        self.select_unknown(&bases, &mut left, &slot)
    }

    /// Literals without a type go where strings go, or where all candidates agree on a category.
    fn select_unknown(
        &self,
        bases: &[Oid],
        left: &mut Vec<usize>,
        slot: &dyn Fn(usize, usize) -> Oid,
    ) -> Option<usize> {
        let mut resolved = true;
        let mut wanted: Vec<Option<(u8, bool)>> = vec![None; bases.len()];
        for (place, base) in bases.iter().enumerate() {
            if *base != oid::UNKNOWN {
                continue;
            }
            let categories: Vec<u8> = left
                .iter()
                .map(|index| self.category(slot(*index, place)))
                .collect();
            let first = categories.first().copied()?;
            let category = if categories.contains(&b'S') {
                b'S'
            } else if categories.iter().all(|found| *found == first) {
                first
            } else {
                resolved = false;
                break;
            };
            let preferred = left
                .iter()
                .any(|index| self.preferred(category, slot(*index, place)));
            if let Some(entry) = wanted.get_mut(place) {
                *entry = Some((category, preferred));
            }
        }
        if resolved {
            let kept: Vec<usize> = left
                .iter()
                .copied()
                .filter(|index| {
                    wanted
                        .iter()
                        .enumerate()
                        .all(|(place, wanted)| match wanted {
                            None => true,
                            Some((category, preferred)) => {
                                let to = slot(*index, place);
                                self.category(to) == *category
                                    && (!preferred || self.preferred(*category, to))
                            }
                        })
                })
                .collect();
            if !kept.is_empty() {
                *left = kept;
            }
            if let [only] = left.as_slice() {
                return Some(*only);
            }
        }
        // All the known ones of one type: perhaps the others are meant to be of it as well.
        let mut known = bases.iter().copied().filter(|base| *base != oid::UNKNOWN);
        let first = known.next()?;
        if !known.all(|base| base == first) {
            return None;
        }
        let mut suiting = left.iter().copied().filter(|index| {
            (0..bases.len())
                .all(|place| self.can_coerce(first, slot(*index, place), Context::Implicit))
        });
        let only = suiting.next()?;
        suiting.next().is_none().then_some(only)
    }

    /// The types that polymorphic arguments and results stand for, given the types of the arguments.
    pub(super) fn resolve_polymorphic(
        &self,
        declared: &[Oid],
        given: &[Oid],
        result: Oid,
    ) -> Option<(Vec<Oid>, Oid)> {
        let mut element: Option<Oid> = None;
        let mut compatible: Vec<Oid> = Vec::new();
        let mut uses_compatible = false;
        for (declared, given) in declared.iter().zip(given) {
            let known = *given != oid::UNKNOWN;
            match *declared {
                oid::ANYELEMENT | oid::ANYNONARRAY | oid::ANYENUM if known => {
                    if element.is_some_and(|found| found != *given) {
                        return None;
                    }
                    element = Some(*given);
                }
                oid::ANYARRAY if known => {
                    let found = self.types.element(*given)?;
                    if element.is_some_and(|other| other != found) {
                        return None;
                    }
                    element = Some(found);
                }
                oid::ANYCOMPATIBLE | oid::ANYCOMPATIBLENONARRAY => {
                    uses_compatible = true;
                    compatible.push(*given);
                }
                oid::ANYCOMPATIBLEARRAY => {
                    uses_compatible = true;
                    if known {
                        compatible.push(self.types.element(*given)?);
                    }
                }
                _ => {}
            }
        }
        let common = match uses_compatible {
            true => Some(self.common_type(&compatible)?),
            false => None,
        };
        let resolve = |declared: Oid| -> Option<Oid> {
            match declared {
                oid::ANYELEMENT | oid::ANYNONARRAY | oid::ANYENUM => element,
                oid::ANYARRAY => self.types.array_over(element?),
                oid::ANYCOMPATIBLE | oid::ANYCOMPATIBLENONARRAY => common,
                oid::ANYCOMPATIBLEARRAY => self.types.array_over(common?),
                other if is_polymorphic(other) => None,
                other => Some(other),
            }
        };
        let arguments = declared
            .iter()
            .zip(given)
            .map(|(declared, given)| match *declared {
                ANY => Some(*given),
                other => resolve(other),
            })
            .collect::<Option<Vec<Oid>>>()?;
        Some((arguments, resolve(result)?))
    }
}

/// A function with the types of exactly as many arguments as the call has.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) function: Arc<Function>,
    /// For each argument of the call, as declared.
    pub(super) types: Vec<Oid>,
    /// For each argument of the call its place among the function's.
    pub(super) places: Vec<usize>,
    /// The last arguments are gathered into an array.
    pub(super) expanded: bool,
}

impl Schema {
    /// Functions of this name that can take the arguments, of the schemas given in order.
    pub(super) fn candidates(
        &self,
        name: &str,
        schemas: &[Box<str>],
        names: &[Option<String>],
        variadic: bool,
    ) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        for schema in schemas {
            let here = self.function_names.get(name).into_iter().flatten();
            for function in here.filter(|function| function.schema == *schema) {
                let Some(candidate) = candidate(function, names, variadic) else {
                    continue;
                };
                let clash = found
                    .iter()
                    .position(|other| other.types == candidate.types);
                match clash.and_then(|index| found.get_mut(index)) {
                    // In one schema the one that needs no expansion wins; of two schemas the earlier one.
                    Some(other)
                        if other.function.schema == *schema
                            && other.expanded
                            && !candidate.expanded =>
                    {
                        *other = candidate;
                    }
                    Some(_) => {}
                    None => found.push(candidate),
                }
            }
        }
        found
    }

    /// Which of them is meant.
    pub(super) fn choose(&self, candidates: &[Candidate], given: &[Oid]) -> Option<usize> {
        if let Some(exact) = candidates
            .iter()
            .position(|candidate| candidate.types == given)
        {
            return Some(exact);
        }
        let signatures: Vec<Vec<Oid>> = candidates
            .iter()
            .map(|candidate| candidate.types.clone())
            .collect();
        self.select(given, &signatures)
    }
}

fn candidate(
    function: &Arc<Function>,
    names: &[Option<String>],
    variadic: bool,
) -> Option<Candidate> {
    let declared = function.arguments.len();
    let given = names.len();
    let mut places = Vec::with_capacity(given);
    for (index, name) in names.iter().enumerate() {
        places.push(match name {
            None => index,
            Some(name) => function
                .argument_names
                .iter()
                .position(|argument| argument.as_deref() == Some(name.as_str()))?,
        });
    }
    if function.variadic != 0 && !variadic && given >= declared && names.iter().all(Option::is_none)
    {
        let mut types: Vec<Oid> = function
            .arguments
            .iter()
            .copied()
            .take(declared.saturating_sub(1))
            .collect();
        types.resize(given, function.variadic);
        return Some(Candidate {
            function: Arc::clone(function),
            types,
            places,
            expanded: true,
        });
    }
    if variadic && function.variadic == 0 {
        return None;
    }
    let required = declared.saturating_sub(function.defaults.len());
    let covers = (0..required).all(|place| places.contains(&place));
    let distinct = places
        .iter()
        .enumerate()
        .all(|(index, place)| !places.iter().take(index).any(|other| other == place));
    if given > declared || !covers || !distinct {
        return None;
    }
    let types = places
        .iter()
        .map(|place| function.arguments.get(*place).copied());
    Some(Candidate {
        types: types.collect::<Option<_>>()?,
        function: Arc::clone(function),
        places,
        expanded: false,
    })
}
