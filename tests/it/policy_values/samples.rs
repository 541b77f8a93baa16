//! Awkward values of each type.

use walcast::policy::schema::Schema;
use walcast::policy::value::{Kind, Oid, oid};

pub(super) const SCHEMA: &str = r#"
    set timezone = 'UTC';
    create schema walcast_values;
    create type walcast_values.mood as enum ('sad', 'ok', 'happy', 'a b');
    create type walcast_values.pair as (n int, t text);
    create domain walcast_values.short as varchar(3);
    create function walcast_values.try(expression text) returns text language plpgsql as $$
    declare
      answer text;
    begin
      execute 'select case when num_nulls(x) = 1 then null else ''='' || format(''%s'', x) end from (select '
        || expression || ' as x offset 0) as q' into answer;
      return answer;
    exception when others then
      return '!' || sqlstate;
    end $$;
    select set_config('app.tenant', '42', false), set_config('app.empty', '', false),
      set_config('request.jwt.claims', '{"sub": "x"}', false);
"#;

const BOOLS: &[&str] = &["t", "f", "true", "fals", "YES", " on ", "of", "o", "off", "1", "0", "", "2", "tru e", "y", "n", "truex"];
const INT2S: &[&str] = &["0", "1", "-1", "7", "3", "2", "32767", "-32768", "100", "16"];
const INT4S: &[&str] = &["0", "1", "-1", "2", "3", "-2", "5", "32768", "2147483647", "-2147483648", "65", "8364", "-7"];
const INT8S: &[&str] = &["0", "1", "-1", "9", "-3", "2147483648", "9223372036854775807", "-9223372036854775808", "4294967296", "32767"];
const BAD_INTEGERS: &[&str] = &[
    "0", "1", "-1", "+5", " 5 ", "007", "-0", "32767", "32768", "-32768", "-32769", "2147483647", "2147483648", "-2147483648",
    "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "99999999999999999999", "", " ", "+", "-",
    "1.0", "1e3", "1 2", "--1", "a", "١", "\t7\n", "4294967295", "4294967296", "1a",
];
const NUMERICS: &[&str] = &[
    "0", "0.00", "-0", "1", "1.0", "1.50", "1.5", "-1.5", "100", "1e2", "0.001", "-0.001", "NaN", "Infinity", "-Infinity", "12345.678",
    "99999.5", "0.5", "2.5", "-2.5", "1e20", "1e-20", "123456789012345678901234567890.123456789", "3", "7", "10000", "9999", "10001.0001",
    "2147483647.5", "9223372036854775807", "-9223372036854775808.4", "32767.4999", "4",
];
const BAD_NUMERICS: &[&str] = &[
    "", " ", ".", "1.", ".5", "-.5", "+1", " 1.5 ", "1e", "1e+", "1e5", "1E-5", "1.5e3", "1.50e1", "e5", "nan", "NAN", "-nan", "inf",
    "+inf", "-inf", "infinity", "INFINITY", "infinit", "1.2.3", "--1", "1 2", "1e131071", "1e131072", "1e-16383", "1e-16384",
    "1e99999999999", "0e99999", "0e-20000", "00012.3400", "0.000", "-0.0", "1,5", "NaN ", "abc", "1e400", "5e-324",
];
const FLOATS: &[&str] = &[
    "0", "-0", "1", "-1", "1.5", "0.1", "1e15", "123456789012345", "1e14", "1e23", "1e22", "5e-324", "1.7976931348623157e308", "NaN", "inf",
    "-inf", "0.0001", "0.00001", "100000", "1000000", "9007199254740993", "2.5", "3.5", "-2.5", "1e-7", "3.4028235e38", "1e-45", "33554432",
    "16777217", "2147483647.5", "0.3", "123.456", "9.223372036854775e18", "4503599627370496.5",
];
const BAD_FLOATS: &[&str] = &[
    "", " ", "1", " 1.5 ", "1.", ".5", ".", "e5", "1e", "1e400", "-1e400", "1e-400", "0e-400", "1e39", "1e-46", "1e-40", "nan", "NaN",
    "NAN", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "infinit", "1 2", "abc", "1.2.3", "--1", "+5", "1e23", "9e22", "8.5e22",
    "2e-3", "123456.7", "1234567.8", "0.1", "1e6", "1e5", "999999", "9999999", "5e-324", "1.17549435e-38", "1e16", "12345678901234567",
    "4.35", "1.1", "9007199254740992", "18014398509481984", "2.2250738585072014e-308", "7.2057594037927933e16", "5e-45", "3.4e38",
    "1.00000017881393421514957253748434595763683319091796875001",
];
const TEXTS: &[&str] = &[
    "", " ", "a", "A", "b", "ab", "abc", "Ab", "aB", "a ", "  a", "a  ", "a/b/c", "/a/b", "a,b,,c", "%", "_", "a%", "%b%", "a_c", "\\", "a\\",
    "\\%", "é", "É", "日本語", "straße", "😀", "x'y", "\"q\"", "null", "NULL", "{a,b}", "12", "-3", "app.tenant", "App.Tenant", "app.none", "app.empty",
    "public/avatar.png", "foo bar", "hello world", "line\nbreak", "tab\t", "user:42:x", "key", "0", "year", "day", "hour", "hex", "base64",
    "UTC", "epoch", "g", ",", "/", ":",
];
const PATTERNS: &[&str] = &[
    "a", "^a", "b$", "^ab?c$", ".", "", "[abc]+", "[^a-z]", "a|b", "(a|b)c", "\\d+", "^[0-9a-f]{2,4}$", "a{2}", "a*", "^$", "\\s", "\\w+",
    "^(public|private)/", "[[:digit:]]", "x.y", "\\.", "(?:ab)+", "/", "é", "^.{3}$", "[^/]+$", "a|ab", "^-?\\d+$", ":", ",+", "b*", "o",
];
const UUIDS: &[&str] = &[
    "00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12}", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "ffffffff-ffff-ffff-ffff-ffffffffffff",
];
const BAD_UUIDS: &[&str] = &[
    "", " ", "nope", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111", " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "a0e-ebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
    "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
];
const BYTEAS: &[&str] = &["", "\\x", "\\x00ff", "\\xDEADBEEF", "abc", "a\\\\b", "\\001x", "\\x61 62", "\\x7f"];
const BAD_BYTEAS: &[&str] = &["\\x0", "\\xzz", "\\8", "\\", "a\\1", "\\400", "\\377", "é", "\\x é", "\\x0 0", "\\X00"];
const BITS: &[&str] = &["", "0", "1", "101", "0000", "1111", "10101010", "00000000000000000000000000000001"];
const BAD_BITS: &[&str] = &["2", "x1F", "xg", "b101", "1 0", "X0a", "B2", "é"];
const DATES: &[&str] = &[
    "2024-02-29", "2000-01-01", "1999-12-31", "1970-01-01", "infinity", "-infinity", "0001-01-01", "0044-03-15 BC", "4714-11-24 BC",
    "5874897-12-31", "294277-01-01", "2024-01-31", "2023-03-31",
];
const STAMPS: &[&str] = &[
    "2024-02-29 12:34:56.789", "2024-02-29", "infinity", "-infinity", "0044-03-15 00:00:00 BC", "0001-01-01 00:00:00",
    "99999-12-31 23:59:59.999999", "1970-01-01 00:00:00", "2000-01-01 00:00:00.000001", "1999-12-31 23:59:59.999999", "2024-01-31 10:00:00",
    "294276-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC", "2024-02-29 12:34:56.5", "2024-12-30 01:02:03", "2023-07-08 09:10:11.123457", "1985-10-26 01:21:59.987653", "1961-05-05 14:34:13.000007",
];
const BAD_STAMPS: &[&str] = &[
    "", " ", "hello", "Monday", "2024-02-30", "2024-13-01", "2024-00-10", "2024-01-00", "0000-01-01", "2024-01-01 25:00:00", "2024-01-01 24:00:00",
    "2024-01-01 24:00:01", "2024-01-01 23:60:00", "2024-01-01 23:59:60", "2024-01-01 23:59:61", "2024-01-01T10:20:30Z", "2024-01-01T10:20:30.123456789Z",
    "2024-01-01 10:20:30+02", "2024-01-01 10:20:30-03:30", "2024-01-01 10:20:30 +0530", "2024-01-01 10:20+16", "2024-01-01 10:20:30+15:59:59",
    "2024-01-01T10:20", " 2024-01-01 10:20:30 ", "2024-1-2", "20240229", "20240230", "10000-01-01", "294277-01-01", "4714-11-23 BC", "4715-01-01 BC",
    "5874898-01-01", "2024-01-01 10:20:30 UTC", "2024-01-01 10:20:30 GMT", "2024-01-01 BC", "2024-01-01 10:20:30.9999999", "2024-01-01 10:20:30.0000005",
    "2024-01-01 10:20:30.0000015", "infinity", "-infinity", "INFINITY", "+infinity", "epoch", "2024-01-01 1:02:03", "2024-02-29 23:59:59.9999995",
    "1900-02-29", "2000-02-29", "2024-01-01t10:20:30z", "2024-01-01 10:20:30+2", "2024-01-01 10:20:30+0260", "abc def", "2024-01-01 00:00:00+15",
    "294276-12-31 23:59:59.999999-01", "4714-11-24 00:00:00+01 BC", "2024-01-01Z", "99999-01-01", "2024-01-01  10:20:30",
];
const TIMES: &[&str] = &["08:09:47.318281", "19:20:21.999983", "00:00:00", "12:34:56.789", "24:00:00", "23:59:59.999999", "00:00:00.000001", "10:00"];
const TIMETZS: &[&str] = &["00:00:00+00", "12:34:56.789+02", "24:00:00-03:30", "10:34:56.789+00", "23:59:59.999999+15", "10:00Z"];
const BAD_TIMES: &[&str] = &["", "hello", "25:00", "24:00:01", "10:60", "10:20:60", "10:20:61", "10:20:30.5+02", "2024-01-01", "2024-01-01 10:20:30", " 9:05 ", "10:20:30.1234567", "10:20:30 UTC"];
const INTERVALS: &[&str] = &[
    "0", "1 day", "24:00:00", "1 mon", "30 days", "-1 days", "1 year 2 mons 3 days 04:05:06.789", "-1 year -2 mons +3 days -04:05:06.789", "00:00:00.000001",
    "1 hour", "90 minutes", "720:00:00", "1 mon -30 days", "1 week", "-1 mon", "100 years", "5 secs", "1.5 hours", "1 mon 1 day", "3 years 1 day 00:00:17.123457", "-00:00:41.718281", "5 mons -3 days 11:59:59.999983",
];
const BAD_INTERVALS: &[&str] = &[
    "", "hello", "1 day", "1 days", "2 d", "1day", "1h", "1.5 days", "0.5 week", "1 week", "1 month", "3 mons", "1 year 1 mon", "P1Y2M3DT4H5M6S", "P1D", "PT1H",
    "PT36H", "P2W", "-1 day +02:03:04", "1 day -02:03", "01:02", "01:02:03.5", "-00:00:01", "100:00:00", "1 hour 30 minutes", "2 hours 1 second", "1 sec",
    "0.5 hours", "1.25 minutes", "1.123456 seconds", "-1.5 days", "+2 days", "1 foo", "day", "1 year -1 mons", "1 mon 40 days 50:00:00",
];
const JSONS: &[&str] = &[
    "null", "true", "false", "1", "1.0", "1.50", "1e2", "-0", "\"a\"", "\"\"", "[]", "{}", "[1, 2, 3]", "[\"a\", \"b\", null]", "{\"a\": 1}", "{\"a\": {\"b\": [1, {\"c\": null}]}}",
    "{\"b\":1,\"a\":2,\"aa\":3,\"a\":4}", "[[1], [2, [3]]]", "{\"key\": \"value\", \"é\": \"日\"}", "\"tab\\t\\u00e9\\n\"", "[1, 1.0, \"1\"]", "{\"a\": [1, 2], \"b\": {}}", " [ 1 ,2 ] ",
    "\"true\"", "\"key\"", "[true, false]", "{\"12\": 1, \"\": 2}", "[null]", "{\"a\": null}", "123456789012345678901234567890.10", "{\"role\": \"admin\", \"roles\": [\"a\", \"x'y\"]}",
    "[1, 2, 1]", "[\"a\"]", "\"b\"",
];
const BAD_JSONS: &[&str] = &[
    "", " ", "{", "}", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "'a'", "nul", "NULL", "True", "01", "1.", ".5", "+1", "1e", "1e5", "1E+2", "1e-3", "-", "[1 2]", "\"a", "\"\\x\"", "\"\\u12\"",
    "\"\\u0000\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"", "\"\n\"", "\"\u{7f}\"", "1 2", "{\"a\":1,}", "[", "{\"a\":1 \"b\":2}", "1e400", "1e200000", "\"\\/\\b\\f\"", "{\"\\u0000\": 1}",
    "x \"\\u0000\"", "{\"a\" \"\\u0000\"}", "[\"\\u0000\"", "truex", "é", "{\"a\":1}x", "--1", "-1.5e-3", "\"\\u00E9\"", "\u{b}1", "NaN", "[[[[]]]]", "{\"a\":{\"a\":{}}}",
];
const ARRAYS_OF_TEXT: &[&str] = &[
    "{}", "{a}", "{a,b}", "{b,a}", "{a,NULL,b}", "{NULL}", "{\"\"}", "{\"a b\",\"c,d\",\"e\\\"f\",\"g\\\\h\"}", "{{a,b},{c,d}}", "[2:3]={x,y}", "{null,NULL,\"null\"}", "{ a , b }", "{a,a,a}", "{key}",
    "{é,日}", "[0:1][1:1]={{a},{b}}", "{0}", "{a,1}", "{a,b,c}",
];
const BAD_ARRAYS: &[&str] = &[
    "", " ", "{", "}", "a", "{a", "{a,}", "{,a}", "{a,,b}", "{{a},b}", "{{a,b},{c}}", "{}x", "{} ", " {a}", "{\"a\"b}", "{a\"b\"}", "{a\\,b}", "{\\NULL}", "[1:2]={a}", "[2]={a,b}", "[2:1]={a}", "{a b}", "{ \"a\" , b }",
    "{{{{{{{a}}}}}}}", "{\"a}", "{a}}", "[1:1]{a}", "[a]={b}", "{a},{b}", "[-1:0]={a,b}", "[1:2] = {a,b}", "{nUlL}", "{\"NULL\"}", "{a\\\\b}", "{\t}", "{a}{b}", "{\\ }",
];
const ARRAYS_OF_INT: &[&str] = &["{}", "{1}", "{1,2,3}", "{3,1,2}", "{NULL,1}", "{1,1,2}", "{{1,2},{3,4}}", "[0:2]={5,6,7}", "{-1,2147483647}", "{2}"];
const MOODS: &[&str] = &["sad", "ok", "happy", "a b"];
const PAIRS: &[&str] = &["(1,a)", "(,)", "(1,\"a b\")", "(2,\"\")", "(1,b)", "(-5,\"x,y\")"];
const BAD_PAIRS: &[&str] = &["", "()", "(1)", "(1,2,3)", "(a,b)", "(1,a", " ( 1 ,a ) ", "(1,\"a\"\"b\")", "(1,a\\,b)", "(1,a)x", "(1,\"\\\\\")", "(\"\",a)", "(1,a\"b,c\"d)", "1,a"];
const CHARS: &[&str] = &["", "a", "b", "Z", "ab", " "];
const NAMES: &[&str] = &["", "a", "abc", "Ab", "public", "x y", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "éééééééééééééééééééééééééééééééééééé"];
const OIDS: &[&str] = &["0", "1", "4294967295", "16384", "-1"];

/// Parts of moments.
pub(super) const FIELDS: &[&str] = &[
    "year", "month", "day", "hour", "minute", "second", "milliseconds", "microseconds", "epoch", "dow", "isodow", "doy", "week", "isoyear", "quarter",
    "decade", "century", "millennium", "YEAR",
];

/// Type as written, its OID (0: made by the schema above), modifier, texts.
pub(super) const INPUTS: &[(&str, Oid, i32, &[&str])] = &[
    ("bool", oid::BOOL, -1, BOOLS),
    ("int2", oid::INT2, -1, BAD_INTEGERS),
    ("int4", oid::INT4, -1, BAD_INTEGERS),
    ("int8", oid::INT8, -1, BAD_INTEGERS),
    ("oid", oid::OID, -1, BAD_INTEGERS),
    ("numeric", oid::NUMERIC, -1, NUMERICS),
    ("numeric", oid::NUMERIC, -1, BAD_NUMERICS),
    ("numeric(5,2)", oid::NUMERIC, (5 << 16 | 2) + 4, NUMERICS),
    ("numeric(10,0)", oid::NUMERIC, (10 << 16) + 4, NUMERICS),
    ("numeric(3,-2)", oid::NUMERIC, (3 << 16 | (0x7fe)) + 4, NUMERICS),
    ("float8", oid::FLOAT8, -1, FLOATS),
    ("float8", oid::FLOAT8, -1, BAD_FLOATS),
    ("float4", oid::FLOAT4, -1, FLOATS),
    ("float4", oid::FLOAT4, -1, BAD_FLOATS),
    ("text", oid::TEXT, -1, TEXTS),
    ("varchar", oid::VARCHAR, -1, TEXTS),
    ("varchar(3)", oid::VARCHAR, 7, TEXTS),
    ("bpchar", oid::BPCHAR, -1, TEXTS),
    ("char(3)", oid::BPCHAR, 7, TEXTS),
    ("name", oid::NAME, -1, NAMES),
    ("\"char\"", oid::CHAR, -1, CHARS),
    ("uuid", oid::UUID, -1, UUIDS),
    ("uuid", oid::UUID, -1, BAD_UUIDS),
    ("bytea", oid::BYTEA, -1, BYTEAS),
    ("bytea", oid::BYTEA, -1, BAD_BYTEAS),
    ("bit(4)", oid::BIT, 4, BITS),
    ("bit(4)", oid::BIT, 4, BAD_BITS),
    ("varbit", oid::VARBIT, -1, BITS),
    ("varbit", oid::VARBIT, -1, BAD_BITS),
    ("varbit(3)", oid::VARBIT, 3, BITS),
    ("date", oid::DATE, -1, DATES),
    ("date", oid::DATE, -1, STAMPS),
    ("date", oid::DATE, -1, BAD_STAMPS),
    ("timestamp", oid::TIMESTAMP, -1, STAMPS),
    ("timestamp", oid::TIMESTAMP, -1, BAD_STAMPS),
    ("timestamp(2)", oid::TIMESTAMP, 2, STAMPS),
    ("timestamptz", oid::TIMESTAMPTZ, -1, STAMPS),
    ("timestamptz", oid::TIMESTAMPTZ, -1, BAD_STAMPS),
    ("timestamptz(0)", oid::TIMESTAMPTZ, 0, STAMPS),
    ("time", oid::TIME, -1, TIMES),
    ("time", oid::TIME, -1, BAD_TIMES),
    ("time(0)", oid::TIME, 0, TIMES),
    ("timetz", oid::TIMETZ, -1, TIMETZS),
    ("timetz", oid::TIMETZ, -1, BAD_TIMES),
    ("interval", oid::INTERVAL, -1, INTERVALS),
    ("interval", oid::INTERVAL, -1, BAD_INTERVALS),
    ("json", oid::JSON, -1, JSONS),
    ("json", oid::JSON, -1, BAD_JSONS),
    ("jsonb", oid::JSONB, -1, JSONS),
    ("jsonb", oid::JSONB, -1, BAD_JSONS),
    ("text[]", oid::TEXT_ARRAY, -1, ARRAYS_OF_TEXT),
    ("text[]", oid::TEXT_ARRAY, -1, BAD_ARRAYS),
    ("int4[]", oid::INT4_ARRAY, -1, ARRAYS_OF_INT),
    ("int4[]", oid::INT4_ARRAY, -1, BAD_ARRAYS),
    ("walcast_values.mood", 0, -1, MOODS),
    ("walcast_values.mood", 0, -1, TEXTS),
    ("walcast_values.pair", 0, -1, PAIRS),
    ("walcast_values.pair", 0, -1, BAD_PAIRS),
    ("walcast_values.short", 0, -1, TEXTS),
];

/// Values of a type, some of which it refuses.
pub(super) fn pool(schema: &Schema, type_oid: Oid) -> Vec<&'static str> {
    let found = schema.types.find(type_oid).unwrap();
    let lists: &[&[&str]] = match (&found.kind, type_oid) {
        (Kind::Enum { .. }, _) => &[MOODS],
        (Kind::Composite { .. }, _) => &[PAIRS],
        (Kind::Array { element }, _) => {
            return match *element {
                oid::TEXT | oid::VARCHAR | oid::NAME | oid::BPCHAR => ARRAYS_OF_TEXT.to_vec(),
                oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 | oid::OID => ARRAYS_OF_INT.to_vec(),
                oid::BOOL => vec!["{}", "{t}", "{t,f,NULL}", "{f}"],
                oid::UUID => vec!["{}", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "{NULL,ffffffff-ffff-ffff-ffff-ffffffffffff,00000000-0000-0000-0000-000000000000}"],
                oid::JSONB | oid::JSON => vec!["{}", "{1,\"{\\\"a\\\": 1}\"}", "{null,NULL}", "{\"\\\"x\\\"\",1.0}"],
                oid::DATE => vec!["{}", "{2024-02-29,NULL}", "{infinity,2000-01-01}"],
                oid::TIMESTAMP | oid::TIMESTAMPTZ => vec!["{}", "{\"2024-02-29 12:34:56.789\",NULL}", "{infinity}", "{2000-01-01,\"0044-03-15 BC\"}"],
                oid::INTERVAL => vec!["{}", "{\"1 mon\",\"30 days\"}", "{NULL,24:00:00}"],
                oid::BYTEA => vec!["{}", "{\"\\\\x00ff\"}", "{abc,NULL}"],
                oid::BIT | oid::VARBIT => vec!["{}", "{1,0}"],
                element => match schema.types.find(element).map(|found| &found.kind) {
                    Some(Kind::Enum { .. }) => vec!["{}", "{sad}", "{ok,happy,NULL}", "{\"a b\",ok}"],
                    Some(Kind::Composite { .. }) => vec!["{}", "{\"(1,a)\"}", "{\"(,)\",NULL,\"(2,\\\"x y\\\")\"}"],
                    _ => Vec::new(),
                },
            };
        }
        (_, oid::BOOL) => &[&["t", "f"]],
        (_, oid::INT2) => &[INT2S],
        (_, oid::INT4) => &[INT4S],
        (_, oid::INT8) => &[INT8S],
        (_, oid::OID) => &[OIDS],
        (_, oid::NUMERIC) => &[NUMERICS],
        (_, oid::FLOAT4 | oid::FLOAT8) => &[FLOATS],
        (_, oid::TEXT) => &[TEXTS, PATTERNS],
        (_, oid::VARCHAR | oid::BPCHAR) => &[TEXTS],
        (_, oid::NAME) => &[NAMES],
        (_, oid::CHAR) => &[CHARS],
        (_, oid::UUID) => &[UUIDS],
        (_, oid::BYTEA) => &[BYTEAS],
        (_, oid::BIT | oid::VARBIT) => &[BITS],
        (_, oid::DATE) => &[DATES],
        (_, oid::TIMESTAMP | oid::TIMESTAMPTZ) => &[STAMPS],
        (_, oid::TIME) => &[TIMES],
        (_, oid::TIMETZ) => &[TIMETZS],
        (_, oid::INTERVAL) => &[INTERVALS],
        (_, oid::JSON | oid::JSONB) => &[JSONS],
        _ => &[],
    };
    lists.concat()
}
