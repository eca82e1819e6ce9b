"""The style sheet of the page: wide screens, phones (760 pixels) and paper."""

# Dark only on screens, so that prints are never dark.
STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1d2126;--soft:#5b636d;--line:#e2e4e1;
--wash:#f1f2ee;--blue:#2a5c9a;--orange:#b9541a;--good:#18764a;--bad:#b3261e;--unsure:#8a5d00}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1b1f24;--ink:#e7e9ea;
--soft:#9ea7b0;--line:#2f353c;--wash:#22272d;--blue:#7fb0ee;--orange:#f0a26c;--good:#62cf98;--bad:#ff8b81;
--unsure:#e5b94a}}*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
overflow-wrap:break-word}main{max-width:1040px;margin:0 auto;padding:44px 24px 28px}h1{font-size:30px;
line-height:1.2;margin:0 0 14px;letter-spacing:-.015em}h2{font-size:20px;margin:52px 0 12px;padding-top:14px;
border-top:1px solid var(--line);break-after:avoid}h3{font-size:15px;margin:28px 0 8px;break-after:avoid}
p{margin:8px 0;max-width:72ch}.kind{color:var(--soft);font-size:14px;margin:0 0 6px}.lead{font-size:18px;
line-height:1.5;border-left:4px solid var(--blue);padding:2px 0 2px 16px;max-width:66ch}
.lead.pass{border-color:var(--good)}.lead.fail{border-color:var(--bad)}
.lead.undecided{border-color:var(--unsure)}.tiles{display:grid;grid-template-columns:repeat(auto-fit,
minmax(150px,1fr));gap:12px;margin:22px 0}.tile,.shot{background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:12px 14px;break-inside:avoid}.tile b{display:block;font-size:22px;line-height:1.3;
font-weight:600;font-variant-numeric:tabular-nums}.tile,small,figcaption{color:var(--soft);font-size:13px}
.tile b{color:var(--ink)}small{display:block;line-height:1.4}dl{display:grid;
grid-template-columns:minmax(120px,max-content) 1fr;gap:6px 22px;margin:12px 0}dt{color:var(--soft)}
dd{margin:0;min-width:0}.scroll{overflow-x:auto;margin:12px 0}table{border-collapse:collapse;width:100%;
font-size:14px;font-variant-numeric:tabular-nums}th{font-weight:500;color:var(--soft);font-size:13px;
vertical-align:bottom}th,td{text-align:right;padding:7px 0 7px 13px;border-bottom:1px solid var(--line);
vertical-align:top}th:first-child,td:first-child{text-align:left;padding-left:0}tr{break-inside:avoid}
td{white-space:nowrap}td:first-child,.words td:nth-child(2){white-space:normal;overflow-wrap:anywhere;
min-width:14ch;max-width:26ch}.compact{max-width:720px}.shot dl{grid-template-columns:max-content 1fr;
gap:0 10px;margin:6px 0 0}.words td:nth-child(2),.words th:nth-child(2){text-align:left}
.meter{display:inline-block;width:72px;height:7px;border-radius:2px;background:var(--wash);margin-right:8px}
.meter i{display:block;height:100%;border-radius:2px;background:var(--blue)}.badge{font-weight:600;
white-space:nowrap}.pass .badge,.badge.pass{color:var(--good)}.badge.fail{color:var(--bad)}
.badge.undecided{color:var(--unsure)}.right{color:var(--good)}.wrong{color:var(--bad)}code,
pre{font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--wash);border-radius:8px;padding:12px 14px;overflow-x:auto;margin:10px 0}
.hint{background:var(--wash);border-radius:8px;padding:10px 14px;color:var(--soft)}
.hint code{color:var(--ink)}figure{margin:14px 0;break-inside:avoid}.pair{display:grid;
grid-template-columns:1fr 1fr;gap:12px 28px}svg{display:block;overflow:visible}svg.chart{width:100%;
height:auto}svg.bars{width:100%;max-width:140px;height:auto}svg text{font-size:11.5px;fill:var(--ink);
font-variant-numeric:tabular-nums}svg .muted{fill:var(--soft)}svg .strong{font-weight:600}
svg .inverse{fill:var(--paper)}svg text.good{fill:var(--good)}svg .halo{paint-order:stroke;
stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}svg path{fill:none;stroke-width:1.5;
stroke-linejoin:round}svg .grid{stroke:var(--line);stroke-width:1}svg .train{stroke:var(--blue);
stroke-dasharray:5 3}svg .tuning{stroke:var(--orange);stroke-width:2}svg .dot-train,svg .bar{fill:var(--blue)}
svg .dot-tuning{fill:var(--orange)}svg .before{fill:var(--line)}
svg .parent{fill:var(--soft)}svg .edge,svg .full{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}
svg .full{stroke-dasharray:5 4}svg .kept{stroke:var(--good);stroke-width:1}svg .ring{fill:var(--paper);
stroke:var(--good);stroke-width:2.5}svg .none{fill:var(--wash);fill-opacity:.6}svg .right{fill:var(--blue)}
svg .wrong{fill:var(--orange)}svg .interval,svg .leader{stroke:var(--soft);stroke-width:1}
svg .leader{stroke-width:.6}svg .point{stroke:var(--paper);stroke-width:1.5;fill:var(--blue)}
svg .candidate{fill:var(--paper);stroke:var(--blue);stroke-width:1.5}svg .both{fill:var(--blue)}
svg .around{fill:none;stroke:var(--good);stroke-width:2}svg .pass{fill:var(--good)}svg .fail{fill:var(--bad)}
svg .undecided{fill:var(--unsure)}.narrow{display:none}.shots{display:grid;
grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:12px}.shot{display:flex;
gap:12px;font-size:13px;line-height:1.45}.shot>div{min-width:0}.shot img,.shot .blank{flex:none;width:84px;
height:84px;object-fit:contain;border-radius:4px;background:var(--wash)}
.shot dl{grid-template-columns:max-content 1fr;gap:0 10px;margin:6px 0 0}summary{cursor:pointer;
color:var(--soft);font-size:14px;margin:10px 0}footer{margin-top:52px;padding-top:14px;
border-top:1px solid var(--line);color:var(--soft);font-size:13px}
@media(max-width:760px){main{padding:26px 16px}h1{font-size:25px}.lead{font-size:17px}
.pair{grid-template-columns:1fr}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}.wide{display:none}
.narrow{display:block}.stack thead{display:none}.stack table,.stack tbody{display:block}
.stack tr{display:grid;grid-template-columns:1fr 1fr 1fr;gap:8px 16px;border-bottom:1px solid var(--line);
padding:14px 0}.stack td{border:0;padding:0;text-align:left!important}.stack td:first-child{grid-column:1/-1;
max-width:none}.stack td:not(:first-child)::before{content:attr(data-name);display:block;color:var(--soft);
font-size:12px}th,td{padding-left:12px}.shot dl{grid-template-columns:max-content 1fr;gap:0 10px;
margin:6px 0 0}.shot dd{margin:0}.meter{display:none}td:first-child,.words td:nth-child(2){min-width:9ch}
.pair svg,.narrow svg{max-width:480px}.narrow ol{font-size:14px;color:var(--soft)}}
@media print{body{font-size:10.5pt;background:#fff}main{padding:0;max-width:none}.scroll{overflow:visible}
.pair{grid-template-columns:1fr 1fr}.narrow{display:none}.wide{display:block}pre{white-space:pre-wrap}
svg{max-width:100%;height:auto}}
"""
