-- Dates and times: BC, infinite, year 294276, 24:00:00, leap seconds, zones
-- [schema]
create table t(id int primary key, d date, t time, tz timetz, ts timestamp, tstz timestamptz, t3 timestamp(3));
create table whole(tz timetz, tstz timestamptz, d date);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '4713-01-01 BC', '00:00', '00:00+15:59', '4713-01-01 00:00:00 BC', '4713-01-02 00:00:00+00 BC', null),
    (2, '5874897-12-31', '24:00', '24:00-15:59', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '2020-02-29 12:00:00.1235'),
    (3, 'infinity', '23:59:59.999999', '12:00:00.5+05:30', 'infinity', '-infinity', '-infinity'),
    (4, '-infinity', '00:00:00.000001', '01:02:03-03:30:15', '-infinity', 'infinity', null),
    (5, '0001-01-01', '23:59:60', '00:00', '0001-12-31 23:59:59 BC', '1883-11-18 12:03:57 America/New_York', '0044-03-15 BC');
set timezone = 'Asia/Kathmandu';
insert into t values (6, 'today', '1:00 pm', '13:00', '2021-03-28 02:30', '2021-03-28 02:30', '1999-12-31 23:59:59.9996');
insert into whole values ('12:00+01', '2020-01-01 00:00+01', '2020-01-01'), ('11:00+00', '2020-01-01 00:00+01', null);
delete from whole where tz = '11:00+00';
update whole set tz = '11:00+00';
update t set d = d + 1, ts = ts + interval '1 day' where id in (1, 5);
