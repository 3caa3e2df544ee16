-- Intervals with mixed signs, 30-day months, extremes
-- [schema]
create table t(id int primary key, i interval, y interval year to month, s interval second(2));
create table whole(i interval);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '1 year -2 mons +3 days -04:05:06.789', '-1-2', '1.235'), (2, '178000000 years', '178000000 years', '-0.001'),
    (3, '-178000000 years', null, null), (4, '0', '0', '0'), (5, '-1 day +00:00:00.000001', '11 mons', '100000 s');
set intervalstyle = 'iso_8601';
insert into t values (6, 'P1Y2M-3DT4H-5M6.5S', 'P1Y', 'PT1S');
insert into whole values ('1 mon'), ('30 days'), ('720:00');
delete from whole where ctid = (select max(ctid) from whole where i = '30 days');
update whole set i = '29 days 24:00' where ctid = (select max(ctid) from whole where i = '30 days');
