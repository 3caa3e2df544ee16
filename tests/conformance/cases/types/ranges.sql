-- Ranges and multiranges, built in and user-defined, with a GiST key
-- [schema]
create extension btree_gist;
create type floats as range (subtype = float8, subtype_diff = float8mi);
create table t(id int primary key, i int4range, b int8range, n numrange, d daterange, ts tsrange, tz tstzrange, f floats, m int4multirange, tm tstzmultirange, a int4range[]);
create table booked(room int, during daterange, primary key (room, during), exclude using gist (room with =, during with &&));
-- [changes]
insert into t values (1, 'empty', '(,)', '(1.0,2.00]', '[2020-01-01,infinity)', '["2020-01-01 00:00","2020-01-02 00:00")', '(,"2020-01-01 00:00+00"]', '[-0,NaN)', '{}', '{[2020-01-01,2020-01-02),(2021-01-01,)}', '{empty,"[1,2)",NULL}'),
    (2, '[1,1]', null, '[,]', 'empty', null, null, '(1e-300,Infinity)', '{[1,3),[5,7),(,-5)}', null, '{}');
update t set i = i + int4range(1, 9), m = m - '{[2,6)}' where id = 2;
insert into booked values (1, '[2020-01-01,2020-01-05)'), (2, '[2020-01-01,2020-01-05)');
begin; delete from booked where room = 1; insert into booked values (1, '[2020-01-03,2020-01-09)'); commit;
update booked set during = '[2020-02-01,2020-02-02)' where room = 2;
