//! What each type can do: text to value, value to text, equality, order.

use std::cmp::Ordering;
use std::sync::Arc;

use super::typing::oid;
use super::{Array, Field, Json, Kind, Numeric, Oid, SqlError, Types, Value};
use super::{array, interval, json_text, moment, scalar};

pub(super) fn supported(types: &Types, type_oid: Oid) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => supported(types, *element),
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Composite { fields, .. }) => {
            fields.iter().all(|field| supported(types, field.type_oid))
        }
        Some(Kind::Base) => is_comparable(base) || matches!(base, oid::JSON | oid::UNKNOWN),
        _ => base == oid::UNKNOWN,
    }
}

const fn is_comparable(base: Oid) -> bool {
    is_ordered(base) || is_text(base) || base == oid::JSONB
}

/// Types whose order depends on a collation.
const fn is_text(base: Oid) -> bool {
    matches!(base, oid::TEXT | oid::VARCHAR | oid::BPCHAR)
}

const fn is_ordered(base: Oid) -> bool {
    matches!(
        base,
        oid::BOOL
            | oid::BYTEA
            | oid::CHAR
            | oid::NAME
            | oid::INT2
            | oid::INT4
            | oid::INT8
            | oid::OID
            | oid::FLOAT4
            | oid::FLOAT8
            | oid::NUMERIC
            | oid::UUID
            | oid::DATE
            | oid::TIME
            | oid::TIMETZ
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::INTERVAL
            | oid::BIT
            | oid::VARBIT
    )
}

pub(super) fn equatable(types: &Types, type_oid: Oid) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => equatable(types, *element),
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Composite { fields, .. }) => {
            fields.iter().all(|field| equatable(types, field.type_oid))
        }
        Some(Kind::Base) => is_comparable(base),
        _ => false,
    }
}

pub(super) fn ordered(types: &Types, type_oid: Oid, bytewise: bool) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => ordered(types, *element, bytewise),
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Composite { fields, .. }) => fields
            .iter()
            .all(|field| ordered(types, field.type_oid, bytewise)),
        Some(Kind::Base) => is_ordered(base) || bytewise && is_text(base),
        _ => false,
    }
}

pub(super) fn canonical(types: &Types, type_oid: Oid, value: &Value) -> Result<Value, SqlError> {
    let base = types.base(type_oid);
    let unknown = || SqlError::internal("a type without a known equality");
    Ok(match (types.find(base).map(|found| &found.kind), value) {
        (_, Value::Null) => Value::Null,
        (Some(Kind::Array { element }), Value::Array(array)) => {
            let elements = array
                .elements
                .iter()
                .map(|value| canonical(types, *element, value));
            Value::Array(Arc::new(Array {
                dimensions: array.dimensions.clone(),
                elements: elements.collect::<Result<_, _>>()?,
            }))
        }
        (Some(Kind::Composite { fields, .. }), Value::Record(values)) => {
            let values = fields.iter().zip(values.iter());
            let values = values.map(|(field, value)| canonical(types, field.type_oid, value));
            Value::Record(values.collect::<Result<_, _>>()?)
        }
        (Some(Kind::Enum { .. }), _) => value.clone(),
        (Some(Kind::Base), _) if is_comparable(base) => match value {
            Value::Numeric(number) => Value::Numeric(number.canonical()),
            Value::Float(bits) if f64::from_bits(*bits) == 0.0 => Value::Float(0),
            Value::Text(text) if base == oid::BPCHAR => Value::text(text.trim_end_matches(' ')),
            Value::Interval(value) => Value::Interval(interval::canonical(*value)?),
            Value::Jsonb(json) => Value::Jsonb(Arc::new(json.canonical())),
            other => other.clone(),
        },
        _ => return Err(unknown()),
    })
}

pub(super) fn compare(
    types: &Types,
    type_oid: Oid,
    a: &Value,
    b: &Value,
) -> Result<Ordering, SqlError> {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Enum { labels }) => {
            let place = |value: &Value| match value {
                Value::Text(text) => labels.iter().position(|label| label == text),
                _ => None,
            };
            return match (place(a), place(b)) {
                (Some(a), Some(b)) => Ok(a.cmp(&b)),
                _ => Err(SqlError::internal("an enum's label that is not known")),
            };
        }
        Some(Kind::Array { element }) => {
            if let (Value::Array(a), Value::Array(b)) = (a, b) {
                return a.compare(b, |a, b| compare(types, *element, a, b));
            }
        }
        Some(Kind::Composite { fields, .. }) => {
            if let (Value::Record(a), Value::Record(b)) = (a, b) {
                return compare_rows(types, fields, a, b);
            }
        }
        _ => {}
    }
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b))
        | (Value::Time(a), Value::Time(b))
        | (Value::Timestamp(a), Value::Timestamp(b))
        | (Value::TimestampTz(a), Value::TimestampTz(b)) => a.cmp(b),
        (Value::Numeric(a), Value::Numeric(b)) => a.compare(b),
        (Value::Float(a), Value::Float(b)) => {
            compare_floats(f64::from_bits(*a), f64::from_bits(*b))
        }
        (Value::Text(a), Value::Text(b)) if base == oid::BPCHAR => {
            let (a, b) = (a.trim_end_matches(' '), b.trim_end_matches(' '));
            a.as_bytes().cmp(b.as_bytes())
        }
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Bytes(a), Value::Bytes(b)) | (Value::Bits(a), Value::Bits(b)) => a.cmp(b),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::TimeTz(a, zone_a), Value::TimeTz(b, zone_b)) => {
            let instant = |time: &i64, zone: &i32| time + i64::from(*zone) * 1_000_000;
            instant(a, zone_a)
                .cmp(&instant(b, zone_b))
                .then(zone_a.cmp(zone_b))
        }
        (Value::Interval(a), Value::Interval(b)) => interval::span(*a).cmp(&interval::span(*b)),
        _ => return Err(SqlError::internal("a type without a known order")),
    })
}

/// Order of floats: NaN is equal to itself and greatest, the zeros are equal.
pub(super) fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn compare_rows(
    types: &Types,
    fields: &[Field],
    a: &[Value],
    b: &[Value],
) -> Result<Ordering, SqlError> {
    for (field, (a, b)) in fields.iter().zip(a.iter().zip(b)) {
        let order = match (a.is_null(), b.is_null()) {
            (false, false) => compare(types, field.type_oid, a, b)?,
            (a, b) => a.cmp(&b),
        };
        if order.is_ne() {
            return Ok(order);
        }
    }
    Ok(Ordering::Equal)
}

pub(super) fn input(
    types: &Types,
    type_oid: Oid,
    typmod: i32,
    text: &str,
) -> Result<Value, SqlError> {
    match types.find(type_oid).map(|found| &found.kind) {
        // A literal of a domain is cast to the type below first.
        Some(Kind::Domain { base, typmod, .. }) => return input(types, *base, *typmod, text),
        Some(Kind::Array { element }) => {
            let delimiter = types.find(*element).map_or(b',', |found| found.delimiter);
            let read = |text: &str| input(types, *element, typmod, text);
            return array::parse(text, delimiter, read).map(|array| Value::Array(Arc::new(array)));
        }
        Some(Kind::Enum { labels }) => {
            return match labels.iter().find(|label| ***label == *text) {
                Some(label) => Ok(Value::Text(Arc::clone(label))),
                None => Err(scalar::invalid("enum", text)),
            };
        }
        Some(Kind::Composite { fields, .. }) => {
            let values = array::parse_row(text, fields.len())?;
            let values = values
                .iter()
                .zip(fields.iter())
                .map(|(value, field)| match value {
                    None => Ok(Value::Null),
                    Some(text) => {
                        let value = input(types, field.type_oid, -1, text)?;
                        with_typmod(types, field.type_oid, field.typmod, value, false)
                    }
                });
            return Ok(Value::Record(values.collect::<Result<_, _>>()?));
        }
        _ => {}
    }
    let value = input_base(type_oid, text)?;
    with_typmod(types, type_oid, typmod, value, true)
}

fn input_base(type_oid: Oid, text: &str) -> Result<Value, SqlError> {
    let integer = |least, most, kind| scalar::integer(text, least, most, kind).map(Value::Int);
    Ok(match type_oid {
        oid::BOOL => {
            Value::Bool(scalar::boolean(text).ok_or_else(|| scalar::invalid("boolean", text))?)
        }
        oid::INT2 => integer(i64::from(i16::MIN), i64::from(i16::MAX), "smallint")?,
        oid::INT4 => integer(i64::from(i32::MIN), i64::from(i32::MAX), "integer")?,
        oid::INT8 => integer(i64::MIN, i64::MAX, "bigint")?,
        oid::OID => Value::Int(scalar::object_id(text)?),
        oid::NUMERIC => Value::Numeric(Numeric::parse(text)?),
        oid::FLOAT4 | oid::FLOAT8 => Value::Float(scalar::float_bits(scalar::float(
            text,
            type_oid == oid::FLOAT4,
        )?)),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::UNKNOWN => Value::text(text),
        oid::NAME => Value::text(scalar::name(text)),
        oid::CHAR => match text.chars().next() {
            None => Value::text(""),
            Some(c) if c.is_ascii() && c != '\\' => Value::text(c.encode_utf8(&mut [0; 4])),
            Some(_) => return Err(SqlError::internal("a \"char\" that is no ASCII character")),
        },
        oid::UUID => Value::Uuid(scalar::uuid(text).ok_or_else(|| scalar::invalid("uuid", text))?),
        oid::BYTEA => Value::Bytes(scalar::bytes(text)?.into()),
        oid::BIT | oid::VARBIT => Value::Bits(scalar::bits(text)?.into()),
        oid::DATE => Value::Date(moment::date(text)?),
        oid::TIME => Value::Time(moment::time(text)?.0),
        oid::TIMETZ => {
            let (time, zone) = moment::time(text)?;
            Value::TimeTz(time, zone)
        }
        oid::TIMESTAMP => Value::Timestamp(moment::timestamp(text, false)?),
        oid::TIMESTAMPTZ => Value::TimestampTz(moment::timestamp(text, true)?),
        oid::INTERVAL => Value::Interval(interval::parse(text)?),
        oid::JSON => {
            json_text::check(text)?;
            Value::Json(Arc::from(text))
        }
        oid::JSONB => Value::Jsonb(Arc::new(Json::parse(text)?)),
        _ => return Err(SqlError::internal("a type that is not supported")),
    })
}

/// Applies a type modifier, as an explicit cast or an assignment does.
pub(super) fn with_typmod(
    types: &Types,
    type_oid: Oid,
    typmod: i32,
    value: Value,
    explicit: bool,
) -> Result<Value, SqlError> {
    if typmod < 0 {
        return Ok(value);
    }
    if let (Value::Array(array), Some(element)) = (&value, types.element(type_oid)) {
        let elements = array.elements.iter().cloned();
        let elements = elements.map(|value| with_typmod(types, element, typmod, value, explicit));
        return Ok(Value::Array(Arc::new(Array {
            dimensions: array.dimensions.clone(),
            elements: elements.collect::<Result<_, _>>()?,
        })));
    }
    match (type_oid, value) {
        (oid::VARCHAR, Value::Text(text)) => scalar::sized_text(&text, typmod, false, explicit),
        (oid::BPCHAR, Value::Text(text)) => scalar::sized_text(&text, typmod, true, explicit),
        (oid::BIT, Value::Bits(bits)) => scalar::sized_bits(&bits, typmod, false, explicit),
        (oid::VARBIT, Value::Bits(bits)) => scalar::sized_bits(&bits, typmod, true, explicit),
        (oid::NUMERIC, Value::Numeric(number)) => number.with_typmod(typmod).map(Value::Numeric),
        (oid::TIMESTAMP, Value::Timestamp(micros)) => {
            Ok(Value::Timestamp(moment::rounded(micros, typmod)))
        }
        (oid::TIMESTAMPTZ, Value::TimestampTz(micros)) => {
            Ok(Value::TimestampTz(moment::rounded(micros, typmod)))
        }
        (oid::TIME, Value::Time(micros)) => Ok(Value::Time(moment::rounded(micros, typmod))),
        (oid::TIMETZ, Value::TimeTz(micros, zone)) => {
            Ok(Value::TimeTz(moment::rounded(micros, typmod), zone))
        }
        (_, Value::Null) => Ok(Value::Null),
        _ => Err(SqlError::internal("a type modifier that is not supported")),
    }
}

pub(super) fn output(types: &Types, type_oid: Oid, value: &Value) -> Result<String, SqlError> {
    let base = types.base(type_oid);
    Ok(match (types.find(base).map(|found| &found.kind), value) {
        (Some(Kind::Array { element }), Value::Array(array)) => {
            let delimiter = types.find(*element).map_or(b',', |found| found.delimiter);
            array::text(array, delimiter, |value| output(types, *element, value))?
        }
        (Some(Kind::Composite { fields, .. }), Value::Record(values)) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| field.type_oid)
                .zip(values.iter())
                .collect();
            array::row_text(types, &fields)?
        }
        (_, Value::Bool(value)) => if *value { "t" } else { "f" }.to_owned(),
        (_, Value::Int(value)) => value.to_string(),
        (_, Value::Numeric(number)) => number.to_string(),
        (_, Value::Float(bits)) => scalar::float_text(f64::from_bits(*bits), base == oid::FLOAT4),
        (_, Value::Text(text) | Value::Json(text)) => text.to_string(),
        (_, Value::Bytes(bytes)) => format!("\\x{}", scalar::hex(bytes)),
        (_, Value::Uuid(bytes)) => scalar::uuid_text(*bytes),
        (_, Value::Date(date)) => moment::date_text(*date),
        (_, Value::Time(micros)) => moment::time_text(*micros),
        (_, Value::TimeTz(micros, zone)) => {
            format!("{}{}", moment::time_text(*micros), moment::zone_text(*zone))
        }
        (_, Value::Timestamp(micros)) => moment::timestamp_text(*micros, ' ', ""),
        (_, Value::TimestampTz(micros)) => moment::timestamp_text(*micros, ' ', "+00"),
        (_, Value::Interval(value)) => interval::text(*value),
        (_, Value::Jsonb(json)) => json.to_string(),
        (_, Value::Bits(bits)) => bits
            .iter()
            .map(|bit| if *bit == 0 { '0' } else { '1' })
            .collect(),
        _ => {
            return Err(SqlError::internal(&format!(
                "no text form of {}",
                types.name(type_oid)
            )));
        }
    })
}
