using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Training;

