-- inet, cidr, macaddr, macaddr8
-- [schema]
create table t(i inet primary key, c cidr, m macaddr, m8 macaddr8);
create table whole(i inet, m8 macaddr8);
alter table whole replica identity full;
-- [changes]
insert into t values ('192.168.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05'), ('192.168.0.1/24', '0.0.0.0/0', null, null),
    ('::1', '2001:db8::/32', '00:00:00:00:00:00', '08:00:2b:01:02:03'), ('::ffff:1.2.3.4/96', '::/0', 'ff:ff:ff:ff:ff:ff', null);
update t set i = i + 1;
update t set c = null where masklen(c) = 0;
insert into whole values ('10.0.0.1', null), ('10.0.0.1/24', null), ('10.0.0.1/32', null);
delete from whole where masklen(i) = 24;
update whole set m8 = '01:02:03:04:05:06:07:08' where ctid = (select min(ctid) from whole);
