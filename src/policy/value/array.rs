//! Arrays and their text form.

use std::cmp::Ordering;

use super::scalar::is_space;
use super::{Oid, SqlError, Types, Value};

/// Dimensions that an array may have.
const DIMENSIONS_MAX: usize = 6;

/// An array: its elements in row-major order and the bounds of its dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    /// Length and lower bound of each dimension, outermost first; none for an empty array.
    pub dimensions: Box<[(i32, i32)]>,
    /// As many as the product of the lengths.
    pub elements: Box<[Value]>,
}

impl Array {
    /// An array of one dimension that begins at 1; without elements it has no dimension.
    #[must_use]
    pub fn one_dimension(elements: Vec<Value>) -> Self {
        let dimensions = match i32::try_from(elements.len()) {
            Ok(0) | Err(_) => Box::default(),
            Ok(length) => Box::from([(length, 1)]),
        };
        Self {
            dimensions,
            elements: elements.into(),
        }
    }

    /// Order of arrays: by elements, NULL last, then by shape.
    pub(super) fn compare(
        &self,
        other: &Self,
        mut element: impl FnMut(&Value, &Value) -> Result<Ordering, SqlError>,
    ) -> Result<Ordering, SqlError> {
        for (a, b) in self.elements.iter().zip(&other.elements) {
            let order = match (a.is_null(), b.is_null()) {
                (false, false) => element(a, b)?,
                (a, b) => a.cmp(&b),
            };
            if order.is_ne() {
                return Ok(order);
            }
        }
        let lengths = |array: &Self| {
            array
                .dimensions
                .iter()
                .map(|(length, _)| *length)
                .collect::<Vec<_>>()
        };
        let bounds = |array: &Self| {
            array
                .dimensions
                .iter()
                .map(|(_, bound)| *bound)
                .collect::<Vec<_>>()
        };
        let shape = self.elements.len().cmp(&other.elements.len());
        Ok(shape
            .then_with(|| self.dimensions.len().cmp(&other.dimensions.len()))
            .then_with(|| lengths(self).cmp(&lengths(other)))
            .then_with(|| bounds(self).cmp(&bounds(other))))
    }
}

struct Reader<'a> {
    whole: &'a str,
    characters: std::iter::Peekable<std::str::Chars<'a>>,
    delimiter: char,
    lengths: Vec<Option<i32>>,
    /// Depth of the elements, known from the first one.
    depth: Option<usize>,
    elements: Vec<Option<String>>,
}

impl Reader<'_> {
    fn malformed(&self) -> SqlError {
        SqlError::new(
            "22P02",
            format!("malformed array literal: \"{}\"", self.whole),
        )
    }

    fn spaces(&mut self) {
        while self.characters.next_if(|c| is_space(*c)).is_some() {}
    }

    /// `[2:3][5]=`; lengths and lower bounds.
    fn bounds(&mut self) -> Result<Vec<(i32, i32)>, SqlError> {
        let mut bounds = Vec::new();
        while self.characters.next_if_eq(&'[').is_some() {
            let first = self.bound()?;
            let (low, high) = match self.characters.next_if_eq(&':') {
                Some(_) => (first, self.bound()?),
                None => (1, first),
            };
            if self.characters.next() != Some(']') {
                return Err(self.malformed());
            }
            if bounds.len() == DIMENSIONS_MAX {
                return Err(SqlError::new(
                    "54000",
                    "number of array dimensions exceeds the maximum",
                ));
            }
            if high < low {
                return Err(SqlError::new(
                    "2202E",
                    "upper bound cannot be less than lower bound",
                ));
            }
            bounds.push((high - low + 1, low));
        }
        if !bounds.is_empty() {
            self.spaces();
            if self.characters.next() != Some('=') {
                return Err(self.malformed());
            }
            self.spaces();
        }
        Ok(bounds)
    }

    fn bound(&mut self) -> Result<i32, SqlError> {
        let mut text = String::new();
        while let Some(c) = self
            .characters
            .next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '+'))
        {
            text.push(c);
        }
        match text.parse::<i32>() {
            Ok(bound) if bound.abs() < 1 << 27 => Ok(bound),
            Ok(_) => Err(SqlError::internal("array bounds that are left to Postgres")),
            Err(_) if text.is_empty() => Err(self.malformed()),
            Err(_) => Err(SqlError::internal("array bounds that are left to Postgres")),
        }
    }

    /// What stands between braces, the first of which has been read.
    fn level(&mut self, depth: usize) -> Result<(), SqlError> {
        if depth > DIMENSIONS_MAX {
            return Err(SqlError::new(
                "54000",
                "number of array dimensions exceeds the maximum",
            ));
        }
        self.spaces();
        if self.characters.next_if_eq(&'}').is_some() {
            if depth > 1 {
                return Err(SqlError::internal(
                    "empty arrays within arrays are left to Postgres",
                ));
            }
            return Ok(());
        }
        let mut count = 0;
        loop {
            self.spaces();
            if self.characters.next_if_eq(&'{').is_some() {
                if self.depth.is_some_and(|found| found <= depth) {
                    return Err(self.malformed());
                }
                self.level(depth + 1)?;
            } else {
                if *self.depth.get_or_insert(depth) != depth {
                    return Err(self.malformed());
                }
                let element = self.element()?;
                self.elements.push(element);
            }
            count += 1;
            self.spaces();
            match self.characters.next() {
                Some('}') => break,
                Some(next) if next == self.delimiter => {}
                _ => return Err(self.malformed()),
            }
        }
        if self.lengths.len() < depth {
            self.lengths.resize(depth, None);
        }
        match self.lengths.get_mut(depth - 1) {
            Some(Some(length)) if *length != count => Err(self.malformed()),
            Some(length) => {
                *length = Some(count);
                Ok(())
            }
            None => Err(self.malformed()),
        }
    }

    fn element(&mut self) -> Result<Option<String>, SqlError> {
        let mut text = String::new();
        if self.characters.next_if_eq(&'"').is_some() {
            loop {
                match self.characters.next() {
                    None => return Err(self.malformed()),
                    Some('"') => return Ok(Some(text)),
                    Some('\\') => match self.characters.next() {
                        Some(escaped) => text.push(escaped),
                        None => return Err(self.malformed()),
                    },
                    Some(other) => text.push(other),
                }
            }
        }
        let (mut kept, mut escaped) = (0, false);
        let delimiter = self.delimiter;
        while let Some(next) = self.characters.next_if(|c| *c != delimiter && *c != '}') {
            match next {
                '{' | '"' => return Err(self.malformed()),
                '\\' => {
                    text.push(self.characters.next().ok_or_else(|| self.malformed())?);
                    escaped = true;
                    kept = text.len();
                }
                other => {
                    text.push(other);
                    if !is_space(other) {
                        kept = text.len();
                    }
                }
            }
        }
        text.truncate(kept);
        if text.is_empty() {
            return Err(self.malformed());
        }
        Ok(if !escaped && text.eq_ignore_ascii_case("null") {
            None
        } else {
            Some(text)
        })
    }
}

/// Reads an array as `array_in` does; `read` reads an element.
pub(super) fn parse(
    text: &str,
    delimiter: u8,
    mut read: impl FnMut(&str) -> Result<Value, SqlError>,
) -> Result<Array, SqlError> {
    let mut reader = Reader {
        whole: text,
        characters: text.chars().peekable(),
        delimiter: char::from(delimiter),
        lengths: Vec::new(),
        depth: None,
        elements: Vec::new(),
    };
    reader.spaces();
    let bounds = reader.bounds()?;
    if reader.characters.next() != Some('{') {
        return Err(reader.malformed());
    }
    reader.level(1)?;
    reader.spaces();
    if reader.characters.next().is_some() {
        return Err(reader.malformed());
    }
    let lengths: Vec<i32> = reader.lengths.iter().flatten().copied().collect();
    if !bounds.is_empty()
        && bounds
            .iter()
            .map(|(length, _)| *length)
            .ne(lengths.iter().copied())
    {
        return Err(reader.malformed());
    }
    let elements = reader
        .elements
        .iter()
        .map(|element| element.as_deref().map_or(Ok(Value::Null), &mut read))
        .collect::<Result<Box<[Value]>, _>>()?;
    let dimensions = if bounds.is_empty() {
        lengths.into_iter().map(|length| (length, 1)).collect()
    } else {
        bounds.into()
    };
    Ok(Array {
        dimensions,
        elements,
    })
}

/// Prints an array as `array_out` does; `print` prints an element.
pub(super) fn text(
    array: &Array,
    delimiter: u8,
    mut print: impl FnMut(&Value) -> Result<String, SqlError>,
) -> Result<String, SqlError> {
    let delimiter = char::from(delimiter);
    if array.elements.is_empty() {
        return Ok("{}".to_owned());
    }
    let mut out = String::new();
    if array.dimensions.iter().any(|(_, low)| *low != 1) {
        for (length, low) in &array.dimensions {
            out.push_str(&format!("[{low}:{}]", low + length - 1));
        }
        out.push('=');
    }
    // How many elements stand between two opening braces of a dimension.
    let mut strides = Vec::new();
    let mut stride = 1;
    for (length, _) in array.dimensions.iter().rev() {
        stride *= usize::try_from(*length).unwrap_or(1).max(1);
        strides.push(stride);
    }
    for (index, element) in array.elements.iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        let opened = strides
            .iter()
            .filter(|stride| index % **stride == 0)
            .count();
        out.extend(std::iter::repeat_n('{', opened));
        if element.is_null() {
            out.push_str("NULL");
        } else {
            let text = print(element)?;
            let special =
                |c: char| matches!(c, '"' | '\\' | '{' | '}') || c == delimiter || is_space(c);
            if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(special) {
                out.push('"');
                for c in text.chars() {
                    if matches!(c, '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out.push('"');
            } else {
                out.push_str(&text);
            }
        }
        let closed = strides
            .iter()
            .filter(|stride| (index + 1) % **stride == 0)
            .count();
        out.extend(std::iter::repeat_n('}', closed));
    }
    Ok(out)
}

/// Reads the fields of a row as `record_in` does.
pub(super) fn parse_row(text: &str, count: usize) -> Result<Vec<Option<String>>, SqlError> {
    let malformed = || SqlError::new("22P02", format!("malformed record literal: \"{text}\""));
    let inner = text
        .trim_start_matches(is_space)
        .strip_prefix('(')
        .ok_or_else(malformed)?;
    let mut characters = inner.chars().peekable();
    let mut fields = Vec::new();
    if count == 0 && characters.next_if_eq(&')').is_none() {
        return Err(malformed());
    }
    for index in 0..count {
        if index > 0 && characters.next() != Some(',') {
            return Err(malformed());
        }
        let mut field = String::new();
        if matches!(characters.peek(), Some(',' | ')')) {
            fields.push(None);
            continue;
        }
        let mut quoted = false;
        while quoted || !matches!(characters.peek(), Some(',' | ')')) {
            match characters.next() {
                None => return Err(malformed()),
                Some('\\') => field.push(characters.next().ok_or_else(malformed)?),
                Some('"') if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
                Some('"') => quoted = !quoted,
                Some(other) => field.push(other),
            }
        }
        fields.push(Some(field));
    }
    if count > 0 && characters.next() != Some(')') {
        return Err(malformed());
    }
    if characters.all(is_space) {
        Ok(fields)
    } else {
        Err(malformed())
    }
}

/// Prints a row as `record_out` does.
pub(super) fn row_text(types: &Types, fields: &[(Oid, &Value)]) -> Result<String, SqlError> {
    let mut out = String::from("(");
    for (index, (type_oid, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if value.is_null() {
            continue;
        }
        let text = super::output(types, *type_oid, value)?;
        let special = |c: char| matches!(c, '"' | '\\' | '(' | ')' | ',') || is_space(c);
        if text.is_empty() || text.contains(special) {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push(c);
                }
                out.push(c);
            }
            out.push('"');
        } else {
            out.push_str(&text);
        }
    }
    out.push(')');
    Ok(out)
}
