-- Schema, table, column and type names of 63 bytes, ASCII and not
-- [schema]
select format('create schema %I', repeat('s', 63)) \gexec
select format('create type %I.%I as enum (%L)', repeat('s', 63), repeat('y', 63), repeat('l', 63)) \gexec
select format('create table %I.%I(%I int primary key, %I text, %I %I.%I)', repeat('s', 63), repeat('t', 63), repeat('k', 63), repeat('é', 31) || 'x', repeat('"', 63), repeat('s', 63), repeat('y', 63)) \gexec
-- [changes]
select format('insert into %I.%I values (1, ''a'', %L), (2, null, null)', repeat('s', 63), repeat('t', 63), repeat('l', 63)) \gexec
select format('update %I.%I set %I = 3 where %2$I.%3$I = 2', repeat('s', 63), repeat('t', 63), repeat('k', 63)) \gexec
